"""Curves of shares over a distance, with their points' words and exact confidence bands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heatserve.benchmarks.report.charts.chart import Line, Point
from heatserve.benchmarks.report.formats import count, is_number, percent, plain
from heatserve.certification.binomial import lower_bound, upper_bound

BAND_CONFIDENCE = 0.95
"""Of each band at each distance, by itself (Clopper-Pearson)."""


def share_line(
    name: str,
    distances: Sequence[float],
    shares: Sequence[float | None],
    *,
    style: int,
    images: int | None = None,
    steps: bool = False,
    what: str = "radius",
) -> Line:
    """A curve of shares of images; with their number, a band of what the true shares may be.

    Args:
        name: of the curve.
        distances: increasing, L2.
        shares: of the images, None or NaN where none was measured.
        style: of the curve.
        images: how many the shares are of; None: no band.
        steps: whether the curve is constant between distances.
        what: the name of the distance.
    """
    found = [(at, share) for at, share in zip(distances, shares, strict=True) if is_number(share) and is_number(at)]
    of = "" if images is None else f" of {count(images)} images"
    drawn = [
        Point(at, share, f"{name}: {percent(share, 2)}{of} at {what} {plain(at)}")
        for at, share in found
        if share is not None
    ]
    return Line(name=name, points=drawn, style=style, band=_band(drawn, images), steps=steps)


def _band(drawn: Sequence[Point], images: int | None) -> list[tuple[float, float, float]]:
    if not images:
        return []
    successes = np.rint([point.y * images for point in drawn])
    alpha = (1 - BAND_CONFIDENCE) / 2
    low, high = lower_bound(successes, images, alpha=alpha), upper_bound(successes, images, alpha=alpha)
    return [(point.x, float(least), float(most)) for point, least, most in zip(drawn, low, high, strict=True)]
