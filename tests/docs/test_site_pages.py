"""Pages mean the same on GitHub and on the site, and their pictures show what there is now."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import markdown
import pytest
import yaml
from markdown_it import MarkdownIt

from heatserve.export.repository.layout import open_model

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
COUNTED = (
    "h1",
    "h2",
    "h3",
    "h4",
    "ul",
    "ol",
    "li",
    "table",
    "tr",
    "td",
    "th",
    "pre",
    "a",
    "img",
    "strong",
    "em",
    "code",
)
LISTED = subprocess.run(["git", "-C", str(ROOT), "ls-files", "*.md"], capture_output=True, text=True, check=False)
PAGES = LISTED.stdout.split()
DRAWN = ("line.svg", "sizes.svg")


class Form(HTMLParser):
    """How many elements of each kind a page has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        """Count it."""
        if tag in COUNTED:
            self.elements[tag] += 1


@pytest.mark.skipif(not PAGES, reason="this is no git checkout")
def test_a_page_has_the_same_form_on_github_and_on_the_site() -> None:
    """Of what GitHub reads (CommonMark, tables) and MkDocs (Python-Markdown): lists, tables, code, links."""
    extensions = [
        name
        for entry in settings()["markdown_extensions"]
        for name in (entry if isinstance(entry, dict) else [entry])
        if name not in ("toc", "pymdownx.highlight")
    ]
    github = MarkdownIt("commonmark", {"html": True}).enable("table")
    for name in PAGES:
        text = (ROOT / name).read_text()
        there, here = Form(github.render(text)).elements, Form(markdown.markdown(text, extensions=extensions)).elements
        assert {kind: (there[kind], here[kind]) for kind in COUNTED if there[kind] != here[kind]} == {}, name


def settings() -> dict[str, list[str | dict[str, object]]]:
    """Those of mkdocs.yml, as far as they are data."""
    found: dict[str, list[str | dict[str, object]]] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    return found


def words(picture: Path) -> list[str]:
    """The text of an SVG picture."""
    text = " ".join(ElementTree.parse(picture).getroot().itertext()).replace("\N{NO-BREAK SPACE}", " ")
    return re.sub(r"\.heatserve-\S+ \{[^}]*\}", "", text).split()


@pytest.mark.slow
def test_the_pictures_of_digits_show_what_is_served(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "site" / "pictures.py"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env={"PYTHONPATH": str(ROOT)})
    for name in DRAWN:
        assert len(words(tmp_path / name)) > 10
        assert words(tmp_path / name) == words(IMAGES / name)


@pytest.mark.parametrize("name", ["predict.svg", "confirm.svg"])
def test_the_pictures_of_terminals_have_the_words_of_today(name: str) -> None:
    """Their numbers are those of a run on CIFAR-10, which is not here; the promise is that of the card."""
    shown = " ".join(words(IMAGES / name))
    calibration = open_model(ROOT / "model_repository", "cifar10").card.calibration
    assert calibration is not None
    assert "heatserve predict … --model cifar10" in shown
    assert (calibration.promise if name == "predict.svg" else "never confirm another class (but for α)") in shown
    assert not {picture.name for picture in IMAGES.glob("*.svg")} - {*DRAWN, "predict.svg", "confirm.svg"}
