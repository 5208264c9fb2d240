"""What MkDocs calls when it builds the site: pages are made of the code, and what links lead to is brought in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command_pages
import outside
import python_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_MADE = {"Commands": command_pages, "Python": python_pages}
"""What makes the pages of each entry of the navigation that is empty in mkdocs.yml."""
_OPEN = {"Guides": "guide", "Results": "results"}
"""Entries of the navigation at whose end the other pages of a folder stand."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation, and have links and headings read as on GitHub."""
    for title, maker in _MADE.items():
        _entries(config.nav or [], title).extend(maker.navigation())
    listed = set(_paths(config.nav or []))
    for title, folder in _OPEN.items():
        pages = sorted(f"{folder}/{path.name}" for path in Path(config.docs_dir, folder).glob("*.md"))
        _entries(config.nav or [], title).extend(page for page in pages if page not in listed)
    config.mdx_configs.setdefault("toc", {})["slugify"] = outside.slug
    config.markdown_extensions.append(outside.LikeGitHub())  # type: ignore[arg-type]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, the pages outside of docs/, and the files and folders that pages link to."""
    for maker in _MADE.values():
        for path, text in maker.pages().items():
            files.append(File.generated(config, path, content=text))
    outside.add_files(files, config)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Remember which page is rendered; one that has no neighbours in the navigation gets the width of that."""
    if page.parent is None:
        page.meta["hide"] = ["navigation"]
    outside.LikeGitHub.page = page.file.src_uri
    return markdown


def _entries(nav: list[Any], title: str) -> list[Any]:
    """The entries under a title, wherever it is, to be extended."""
    return next(value for name, value in _titled(nav) if name == title)


def _titled(nav: list[Any]) -> Iterator[tuple[str, Any]]:
    for item in nav:
        for name, value in item.items() if isinstance(item, dict) else ():
            yield name, value
            yield from _titled(value) if isinstance(value, list) else ()


def _paths(nav: Any) -> Iterator[str]:
    """All pages that the navigation names."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _paths(entry)
