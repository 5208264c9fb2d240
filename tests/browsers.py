"""Headless Chromium for tests that look at pages as a reader does: what is wrong with a page is found here."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1280, 900), (390, 844)
"""Widths and heights of a window, pixels."""


def chromium() -> str:
    """The path of Chromium on PATH or as `make tools` unpacked it; without it the test is skipped."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.prefix, "tools", "usr", "bin"))])
    found = next(filter(None, (shutil.which(name, path=folders) for name in NAMES)), None)
    if found is None:
        pytest.skip("chromium: not on PATH, and `make tools` did not unpack it")
    return found


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium without a window. While it is open, this thread can run no event loop of asyncio of its own."""
    path = chromium()
    with sync_playwright() as playwright:
        # Its sandbox wants privileges that a container has not; what it opens are pages of ours.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(
    browser: Browser,
    *,
    size: tuple[int, int] = DESKTOP,
    colours: Literal["light", "dark"] = "light",
    touch: bool = False,
) -> Iterator[Page]:
    """A page in a window of its own, which fails the test where a script of it failed, or it asked another host."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=colours,
        reduced_motion="reduce",
        has_touch=touch,
    )
    page, wrong, asked = context.new_page(), list[str](), list[str]()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    # A refused request is an error of the console, and the page's to show.
    page.on(
        "console",
        lambda said: (
            wrong.append(said.text) if said.type == "error" and "Failed to load resource" not in said.text else None
        ),
    )
    page.on("request", lambda request: asked.append(request.url))
    try:
        yield page
        own = urlsplit(page.url).netloc
    finally:
        context.close()
    others = [url for url in asked if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != own]
    assert not wrong, wrong
    assert not others, others


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with the page as it is now, for somebody who cannot see it, or not well."""
    # Preloading asks for style sheets once more, which a page from a file may not.
    found = Axe().run(page, options={"preload": False}).response["violations"]
    return [f"{rule['id']}: {rule['help']}: {node['html'][:160]}" for rule in found for node in rule["nodes"]]


def is_too_wide(page: Page) -> bool:
    """Whether the page has to be moved sideways to be read."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
