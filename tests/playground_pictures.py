"""The pictures of docs/guide/playground.md: `python tests/playground_pictures.py docs/images`, before a real Triton."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from browsers import PHONE, open_browser, open_page
from PIL import Image
from playgrounds import opened, running_playground
from playwright.sync_api import Browser, Page

from heatserve.certification.files import write_atomically

_COLOURS = 128  # of the palette: the page has few
_WIDTH = 1180


def save(shot: bytes, path: Path) -> None:
    """Write a screenshot as a small PNG."""
    content = io.BytesIO()
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(
        content, "PNG", optimize=True
    )
    write_atomically(path, content.getvalue())


def shot_of(page: Page, first: str, last: str) -> bytes:
    """The part of the page from one section to another."""
    page.evaluate("window.scrollTo(0, 0)")
    boxes = [page.locator(selector).bounding_box() for selector in (first, last)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    top, bottom = boxes[0]["y"] - 12, max(box["y"] + box["height"] for box in boxes if box) + 12
    width = page.evaluate("document.documentElement.clientWidth")
    clip = {"x": 0, "y": max(0, top), "width": width, "height": bottom - max(0, top)}
    return page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]


def spoof(page: Page) -> None:
    """Search until a radius is spoofed, as a user would: a search fails now and then."""
    verdict = page.locator("#spoof-result .verdict").first
    for _ in range(10):
        page.get_by_role("button", name="Spoof").click()
        verdict.wait_for()
        if "A spoofed radius" in verdict.inner_text():
            return
    raise AssertionError(f"expected a spoofed radius in ten searches, got: {verdict.inner_text()}")


def take(browser: Browser, folder: Path, target: Path) -> None:
    """All pictures."""
    with running_playground(folder, start_seconds=300) as playground:
        with open_page(browser, size=(_WIDTH, 900)) as page:
            opened(page, playground, example=1)
            save(shot_of(page, "header", "#size-card"), target / "playground.png")
            page.get_by_role("button", name="Far outside").click()
            page.get_by_role("button", name="Attack").click()
            page.locator("#attack-result .verdict").wait_for()
            spoof(page)
            page.select_option("#votes", "10000")
            page.get_by_role("button", name="Prove it").click()
            page.locator("#prove-controls button:text('Stop'):disabled").wait_for()
            page.locator("#prove-result .claim").wait_for()
            save(shot_of(page, "#noise-card", "#prove-card"), target / "playground-attacks.png")
        with open_page(browser, size=PHONE, colours="dark") as page:
            opened(page, playground, model="digits_lipschitz", example=5)
            save(shot_of(page, "header", "#answer-card"), target / "playground-phone.png")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, open_browser() as browser:
        take(browser, Path(name), Path(sys.argv[1]))
