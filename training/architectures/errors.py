"""What is wrong with an architecture."""

from __future__ import annotations

from heatserve.certification.errors import HeatserveError


class ArchitectureError(HeatserveError):
    """An architecture is unknown, may not be used, cannot be built, or does not fit the images."""


def first_line(error: BaseException) -> str:
    """The kind of an exception and the first line of its message, cut to 300 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
