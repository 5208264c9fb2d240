"""The page's own files, read once: no name in a request becomes a path."""

from __future__ import annotations

from importlib.resources import files

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""What is served, by the end of its name."""


def static_files() -> dict[str, tuple[bytes, str]]:
    """The content and the type of each file, by its name."""
    found = {}
    for file in files("heatserve.playground").joinpath("static").iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind:
            found[file.name] = (file.read_bytes(), kind)
    return found
