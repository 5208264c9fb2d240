"""What the pages link to outside of docs/ comes into the site: other pages, results, configurations, folders.

A page is written for GitHub, where its links are paths of the repository. Here each link is resolved as there, and then
told where that file is in the site: docs/X is X, and all else keeps its path. A file that is linked is copied, a page
is rendered, and a folder becomes a page that lists its files. A link to nothing is a warning, which ends a strict
build.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[2]
HOME = "README.md"
PAGES = (HOME, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "deploy/README.md", "model_repository/README.md")
"""Pages of the repository outside of docs/."""
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
_SOURCES: dict[str, str] = {}
"""Of each page of the site, the path of the repository that its links are relative to."""


def slug(heading: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", unicodedata.normalize("NFC", heading).lower().strip())
    return kept.replace(" ", separator)


def add_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages outside of docs/, and every file and folder that a page links to."""
    _SOURCES.clear()
    for file in files.documentation_pages():
        if file.generated_by is None:
            _SOURCES[file.src_uri] = f"docs/{file.src_uri}"
    for path in PAGES:
        _SOURCES[path] = path
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for target in sorted(_linked()):
        if target in (*PAGES, "") or target.startswith("docs/"):
            continue
        if (ROOT / target).is_dir():
            files.append(_listing(target, files, config))
        elif files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))


def _linked() -> set[str]:
    """The paths outside of docs/ to which pages link, and that exist."""
    found = set()
    for source in _SOURCES.values():
        for link in _LINK.findall(_FENCE.sub("", (ROOT / source).read_text())):
            target = _resolved(source, urlsplit(link).path)
            if target and (ROOT / target).exists():
                found.add(target)
    return found


def _resolved(source: str, path: str) -> str:
    """The path of the repository to which a link leads that stands in the file `source`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(path))) if path else ""


def _in_site(target: str) -> str:
    """Where a path of the repository is in the site."""
    if (ROOT / target).is_dir():
        return f"{target}/{_LISTING}"
    return target.removeprefix("docs/")


_LISTING = "files.md"


def _listing(folder: str, files: Files, config: MkDocsConfig) -> File:
    """A page of the files of a folder, which are copied."""
    lines = [f"# `{folder}/`", ""]
    for path in sorted((ROOT / folder).iterdir()):
        if path.is_file() and not path.name.startswith("."):
            name = f"{folder}/{path.name}"
            lines.append(f"- [{path.name}]({path.name})")
            if files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(path)))
    _SOURCES[f"{folder}/{_LISTING}"] = f"{folder}/{_LISTING}"
    text = "\n".join([*lines, ""])
    return File.generated(config, f"{folder}/{_LISTING}", content=text, inclusion=InclusionLevel.NOT_IN_NAV)


class LikeGitHub(Extension):  # type: ignore[misc]
    """Links as paths of the repository, and heads of tables that may be empty."""

    page = ""

    def extendMarkdown(self, md: Markdown) -> None:
        """Before MkDocs' own look at links, which has priority 0."""
        md.treeprocessors.register(_Links(md), "links-like-github", 1)
        md.treeprocessors.register(_Tables(md), "empty-heads", 1)


class _Links(Treeprocessor):  # type: ignore[misc]
    def run(self, root: Element) -> None:
        """Turn each link of the page from a path of the repository into one of the site."""
        source = _SOURCES.get(LikeGitHub.page)
        if source is None:
            return
        here = posixpath.dirname(LikeGitHub.page)
        for element in root.iter():
            name = {"a": "href", "img": "src"}.get(element.tag)
            parts = urlsplit(element.get(name, "")) if name else None
            if name is None or parts is None or parts.scheme or parts.netloc or not parts.path:
                continue
            target = _in_site(_resolved(source, parts.path))
            path = os.path.relpath(target, here or ".")
            element.set(name, urlunsplit(("", "", path, parts.query, parts.fragment)))


class _Tables(Treeprocessor):  # type: ignore[misc]
    def run(self, root: Element) -> None:
        """Make cells of a head in which nothing stands ordinary ones, since they are the head of nothing."""
        for cell in root.iter("th"):
            if len(cell) == 0 and not (cell.text or "").strip():
                cell.tag = "td"
