"""Fewer points for the eye, no observation lost: those that lie in one cell of a grid become one point."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from heatserve.benchmarks.report.charts.chart import Point

MOST_POINTS = 200
"""A cloud with more points is drawn as cells, each of which says how many images lie in it."""
GRID_CELLS = 28
"""Cells of the grid in each direction."""


@dataclass(frozen=True)
class Observation:
    """One image: where it lies, and which it is."""

    x: float
    y: float
    index: int


def thinned(
    found: Iterable[Observation], *, end: float, says: Callable[[Sequence[Observation]], str], most: int = MOST_POINTS
) -> list[Point]:
    """One point for each observation, or for each cell of a grid over [0, end]² where they are more than `most`.

    Every observation is in one point, and the weights add up to their number; one without a place is left out.

    Args:
        found: the observations.
        end: of both axes.
        says: what a point says of the observations that it stands for.
        most: points that are drawn one by one.
    """
    kept = [one for one in found if isfinite(one.x) and isfinite(one.y)]
    if len(kept) <= most:
        return [Point(one.x, one.y, says([one])) for one in kept]
    cells: dict[tuple[int, int], list[Observation]] = defaultdict(list)
    for one in kept:
        cells[_cell(one.x, end), _cell(one.y, end)].append(one)
    return [_together(members, says(members)) for _, members in sorted(cells.items())]


def _cell(value: float, end: float) -> int:
    return min(int(GRID_CELLS * value / end), GRID_CELLS - 1)


def _together(members: Sequence[Observation], says: str) -> Point:
    """At the mean of its members."""
    count = len(members)
    return Point(sum(one.x for one in members) / count, sum(one.y for one in members) / count, says, count)
