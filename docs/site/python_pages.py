"""The reference of the Python interface: a page for `heatserve` and for each room, of every public name once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]
FOLDER = "reference/python"
PACKAGES = (
    "heatserve",
    "heatserve.certification",
    "heatserve.training",
    "heatserve.export",
    "heatserve.serving",
    "heatserve.benchmarks",
)


def pages() -> dict[str, str]:
    """The text of each page by its path."""
    shown: dict[str, str] = {}
    return {_uri(package): package_page(package, shown) for package in PACKAGES}


def navigation() -> list[Any]:
    """The entries of the pages."""
    return [{package: _uri(package)} for package in PACKAGES]


def package_page(package: str, shown: dict[str, str]) -> str:
    """A page of the public names of a package; of those on an earlier page, a link to it.

    Args:
        package: its full name.
        shown: where each object is described that an earlier page described, by its own full name; added to.
    """
    lines = [f"# `{package}`", "", f"::: {package}", "    options: {members: false, show_root_heading: false}", ""]
    here, elsewhere = [], []
    path = ROOT / package.replace(".", "/") / "__init__.py"
    module = griffe.visit(package, filepath=path, code=path.read_text())
    for name in sorted(map(str, module.exports or []), key=str.lower):
        origin = module[name].target_path
        if origin in shown:
            elsewhere.append(f"[`{name}`][{shown[origin]}]")
        else:
            shown[origin] = f"{package}.{name}"
            here.append(name)
    if elsewhere:
        lines += [f"Also here: {', '.join(elsewhere)}.", ""]
    for name in here:
        lines += [f"::: {package}.{name}", ""]
    return "\n".join(lines)


def _uri(package: str) -> str:
    return f"{FOLDER}/{package}.md"
