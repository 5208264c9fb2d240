"""What MkDocs calls when it builds the site: pages are made of the code, and what links lead to is brought in."""

from __future__ import annotations

from typing import Any

import command_pages
import outside
import python_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_MADE = {"Commands": command_pages, "Python": python_pages}
"""What makes the pages of each entry of the navigation that is empty in mkdocs.yml."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation, and have links and headings read as on GitHub."""
    for title, maker in _MADE.items():
        _fill(config.nav or [], title, maker.navigation())
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
    """Remember which page is rendered."""
    outside.LikeGitHub.page = page.file.src_uri
    return markdown


def _fill(nav: list[Any], title: str, entries: list[Any]) -> None:
    """Put entries under a title, wherever it is."""
    for item in nav:
        for name, value in item.items() if isinstance(item, dict) else ():
            if name == title:
                item[name] = entries
            elif isinstance(value, list):
                _fill(value, title, entries)
