"""Curves of shares over a distance, with their points' words and exact confidence bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from heatserve.benchmarks.paper.summary import ShareCurve, curve_of
from heatserve.benchmarks.report.charts.chart import Curve, Point
from heatserve.benchmarks.report.formats import count, is_number, joined, percentage, plain
from heatserve.benchmarks.report.images import named


def share_line(
    name: str,
    distances: Sequence[float],
    shares: Sequence[float | None],
    *,
    style: int,
    images: int | None = None,
    what: str = "radius",
) -> Curve:
    """A curve of shares of images; with their number, a band of what the true shares may be.

    Args:
        name: of the curve.
        distances: increasing, L2.
        shares: of the images, None or NaN where none was measured.
        style: of the curve.
        images: how many the shares are of; None: no band.
        what: the name of the distance.
    """
    found = [(at, share) for at, share in zip(distances, shares, strict=True) if share is not None and is_number(share)]
    if images:
        at = np.array([distance for distance, _ in found])
        counts = np.rint([share * images for _, share in found])
        return curve_line(name, curve_of(counts, images, at), style=style, what=what)
    points = [Point(at, share, f"{name}: {percentage(share, 2)} at {what} {plain(at)}") for at, share in found]
    return Curve(name=name, points=points, style=style)


def leaders(curves: Mapping[str, ShareCurve], at: int, what: str, *, fewest: bool = False) -> str:
    """Which system has the largest share at a place, or the smallest, with those that the bands do not tell from it."""
    if fewest:
        best = min(curves, key=lambda name: curves[name].share[at])
        near = [name for name in curves if curves[name].lower[at] <= curves[best].upper[at]]
    else:
        best = max(curves, key=lambda name: curves[name].share[at])
        near = [name for name in curves if curves[name].upper[at] >= curves[best].lower[at]]
    others = [named(name) for name in near if name != best]
    said = f"{named(best)} {what}: {percentage(float(curves[best].share[at]))}"
    return f"{said}; the bands do not tell it from {joined(others)}" if others else said


def curve_line(
    name: str, curve: ShareCurve, *, style: int, what: str = "radius", marks: bool = True, legend: str | None = None
) -> Curve:
    """A curve with its band; without marks where it has many points, each of which says its numbers all the same.

    Points say its `name`, the legend a longer one where there is one.
    """
    places = [(float(at), float(share)) for at, share in zip(curve.at, curve.share, strict=True)]
    total = count(curve.total)
    return Curve(
        name=legend or name,
        points=[
            Point(at, share, f"{name}: {percentage(share, 2)} of {total} images at {what} {plain(at)}")
            for at, share in places
        ],
        style=style,
        band=[
            (float(at), float(low), float(high))
            for at, low, high in zip(curve.at, curve.lower, curve.upper, strict=True)
        ],
        marks=marks,
    )
