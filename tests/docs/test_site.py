"""The documentation site: built without a warning, whole without a network, and readable by everybody."""

from __future__ import annotations

import ast
import json
import logging
import re
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
import typer
from browsers import DESKTOP, PHONE, is_too_wide, open_browser, open_page, violations
from mkdocs.commands.build import build
from mkdocs.config import load_config
from playwright.sync_api import Browser

from heatserve.cli import app

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TYPICAL = ("index.html", "tutorial.html", "theory.html", "reference/commands/serve.html")
"""Pages of every kind: tables, blocks of code, formulas, options."""
PATIENT = 120_000
"""Milliseconds that a busy machine may take to set the search up."""
_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
_ENVIRONMENT = re.compile(r"^[A-Z][A-Z_]+$")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it: strict, so that a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    heard = Heard()
    logging.getLogger("mkdocs").addHandler(heard)
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)
    finally:
        config.plugins.on_shutdown()
        logging.getLogger("mkdocs").removeHandler(heard)
        assert heard.warnings == []
    return folder


class Heard(logging.Handler):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.warnings.append(record.getMessage())


class Loaded(HTMLParser):
    """What a page loads by itself, and where its links lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep its addresses."""
        values = dict(attrs)
        if tag in _LOADED:
            self.loads.append(values.get(_LOADED[tag]) or "")
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.loads.append(values.get("href") or "")
        elif tag == "a":
            self.links.append(values.get("href") or "")


def pages(site: Path) -> Iterator[tuple[str, Loaded]]:
    """The pages that the site makes; pages of audits that are copied into it load nothing as they are."""
    for path in sorted(site.rglob("*.html")):
        if not path.is_relative_to(site / "benchmarks"):
            yield str(path.relative_to(site)), Loaded(path.read_text())


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = {(name, address) for name, page in pages(site) for address in page.loads}
    assert len(loaded) > 100
    assert {(name, address) for name, address in loaded if urlsplit(address).scheme not in ("", "data")} == set()
    for sheet in site.rglob("*.css"):
        assert re.findall(r"url\(\"?(?:https?:)?//", sheet.read_text()) == []


def test_links_to_elsewhere_are_whole_addresses_over_https(site: Path) -> None:
    found = {link for _, page in pages(site) for link in page.links if urlsplit(link).scheme}
    found -= {link for link in found if urlsplit(link).hostname == "127.0.0.1"}
    assert len(found) > 3
    wrong = {link for link in found if not re.fullmatch(r"https://[\w.-]+\.\w+(/[\w./%#?=&~+-]*)?", link)}
    assert wrong == set()


def test_every_command_has_its_options_and_defaults_in_the_reference(site: Path) -> None:
    missing = []
    for path, command in commands(typer.main.get_command(app), ()):
        text = (site / "reference" / "commands" / f"{path[0]}.html").read_text()
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden and "--help" not in parameter.opts:
                missing += [(*path, option) for option in parameter.opts if f"<code>{option}" not in text]
    assert missing == []


def commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that is no group, with the words that call it."""
    below = getattr(command, "commands", {})
    for name, each in below.items():
        yield from commands(each, (*path, name))
    if not below:
        yield path, command


def test_every_environment_variable_of_the_code_is_explained() -> None:
    """But for those by which processes of a server tell each other, whose names begin with ours."""
    explained = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "reference" / "environment.md").read_text()))
    read: set[str] = set()
    for room in ("certification", "training", "export", "serving", "benchmarks", "heatserve/commands"):
        for path in (ROOT / room).rglob("*.py"):
            read |= environment_of(path)
    assert {"OMP_NUM_THREADS", "XDG_CACHE_HOME"} <= read
    assert {name for name in read if not name.startswith("HEATSERVE_")} - explained == set()


def environment_of(path: Path) -> set[str]:
    """The names in `os.environ[…]`, `os.environ.get(…)` and `os.environ.setdefault(…)` of a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        asked = node.args[:1] if isinstance(node, ast.Call) else [node.slice] if isinstance(node, ast.Subscript) else []
        of = node.func if isinstance(node, ast.Call) else node.value if isinstance(node, ast.Subscript) else None
        if of is not None and re.match(r"os\.environ(\.(get|setdefault|pop))?$", ast.unparse(of)):
            found |= {name.value for name in asked if isinstance(name, ast.Constant)}
    return {name for name in found if isinstance(name, str) and _ENVIRONMENT.match(name)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served; from a folder, axe-core could not read its style sheets."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("name", TYPICAL)
def test_a_page_can_be_read_by_everybody(
    address: str, browser: Browser, name: str, colours: Literal["light", "dark"]
) -> None:
    with open_page(browser, size=DESKTOP if colours == "light" else PHONE, colours=colours) as page:
        page.goto(f"{address}/{name}")
        assert page.evaluate("document.body.dataset.mdColorScheme") == ("slate" if colours == "dark" else "default")
        assert not is_too_wide(page)
        assert violations(page) == []


def test_the_search_finds_without_a_server(site: Path, browser: Browser) -> None:
    with open_page(browser) as page:
        page.goto((site / "index.html").as_uri())
        page.get_by_role("textbox", name="Search").click(timeout=PATIENT)
        page.keyboard.type("Clopper-Pearson", delay=20)
        page.wait_for_selector(".md-search-result__item", timeout=PATIENT)
        found = [link.get_attribute("href") or "" for link in page.locator(".md-search-result__link").all()]
        assert [link for link in found if "theory.html" in link]
        index = json.loads((site / "search" / "search_index.json").read_text())
        assert len({entry["location"].split("#")[0] for entry in index["docs"]}) > 60
