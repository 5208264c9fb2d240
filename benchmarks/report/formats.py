"""How numbers are written. What is not a number, or was not measured, is a dash: it never looks like a 0."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

DASH = "–"
_SPACE = "\N{NO-BREAK SPACE}"
"""Keeps a number and its unit on one line."""


def is_number(value: float | None) -> bool:
    """Whether there is something to write."""
    return value is not None and isfinite(value)


def percentage(share: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return DASH if share is None or not isfinite(share) else f"{100 * share:.{digits}f}{_SPACE}%"


def in_percent(share: float | None) -> str:
    """As `percent`, without the sign: of a table whose caption says it."""
    return DASH if share is None or not isfinite(share) else f"{100 * share:.1f}"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, without a sign."""
    return DASH if difference is None or not isfinite(difference) else f"{abs(100 * difference):.1f} points"


def decimals(value: float | None, digits: int = 3) -> str:
    """A number with so many digits behind the point."""
    return DASH if value is None or not isfinite(value) else f"{value:,.{digits}f}"


def count(value: float | None) -> str:
    """A whole number with commas."""
    return DASH if value is None or not isfinite(value) else f"{value:,.0f}"


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, never in powers of ten."""
    if value is None or not isfinite(value):
        return DASH
    if value == 0:
        return "0"
    magnitude = len(f"{abs(value):.0f}") if abs(value) >= 1 else 0
    return f"{value:,.{max(digits - magnitude, 0)}f}" if abs(value) >= 0.001 else f"{value:.{digits - 1}e}"


def times(ratio: float | None) -> str:
    """How many times as much."""
    return DASH if ratio is None or not isfinite(ratio) else f"{significant(ratio, 2 if ratio >= 10 else 3)}×"


def plain(value: float | None) -> str:
    """A setting, as short as it is exact to six digits."""
    return DASH if value is None or not isfinite(value) else f"{value:.6g}"


def radius_name(radius: float) -> str:
    """An L2 radius, as the literature writes it where it is a number of steps of 255."""
    steps = radius * 255
    return f"{steps:.0f}/255" if abs(steps - round(steps)) < 1e-6 and round(steps) else plain(radius)


def joined(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = [*names] or [DASH]
    return f"{', '.join(first)} and {last}" if first else last
