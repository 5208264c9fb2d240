"""What the paper never shows: served against proven radius image by image, and accuracy by tier with what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from heatserve.benchmarks.paper.summary import (
    BAND_CONFIDENCE,
    ShareCurve,
    certify_curve,
    curve_of,
    is_right,
    served_curve,
)
from heatserve.benchmarks.records.paper import SystemRow
from heatserve.benchmarks.report.charts.chart import Axis, Chart, Cloud
from heatserve.benchmarks.report.charts.scale import round_up
from heatserve.benchmarks.report.charts.thinning import Observation, thinned
from heatserve.benchmarks.report.curves import curve_line
from heatserve.benchmarks.report.document import Beside, Block, Figure, Prose, Section, Table, anchor
from heatserve.benchmarks.report.formats import count, decimals, in_percent, percentage, plain
from heatserve.benchmarks.report.images import ProvenImages, named, proven_images
from heatserve.benchmarks.report.reported import DatasetResults, ReportedResults
from heatserve.benchmarks.report.sections.tiers import TIER_STYLES

_BANDS = 5
"""Of radii, in the table of overclaims."""
_TIER_SYSTEMS = ("average", "heat", "madry-heat", "smoothadv", "noise")
"""Whose tiers are drawn, as far as they are measured: two at most."""


def reliability_section(reported: ReportedResults) -> Section | None:
    """One figure for each system, then tiers."""
    blocks: list[Block] = []
    for results in reported.paper:
        for sigma in results.sigmas:
            rows = [row for row in results.rows(sigma) if row.noisy]
            blocks += [Beside([_served_and_proven(results, row, sigma) for row in rows])] if rows else []
            blocks += _tiers(results, sigma)
    if not blocks:
        return None
    start = Prose(
        "Each mark is an image: the radius that one pass claims, over the radius that Certify proves for the "
        "smoothed classifier. Above the diagonal, or of another class, a claim is an overclaim, and a cross. Where "
        "nothing could be promised of a system, and 0 is served, the figure has the nominal radius, the formula of "
        "Cohen et al. on one pass."
    )
    return Section("reliability", "What the paper never shows", [start, *blocks])


def _served_and_proven(results: DatasetResults, row: SystemRow, sigma: float) -> Figure:
    images = proven_images(row)
    what, over, backed = images.what, images.overclaims, images.backed
    finite = [float(value) for value in (*images.claimed, *images.proven) if np.isfinite(value)]
    end = round_up(max(finite, default=1.0))
    positive = int((images.claimed > 0).sum())
    return Figure(
        name=anchor("proven", results.folder, row.system, plain(sigma)),
        title=f"{named(row.system)}, {results.folder}, σ = {plain(sigma)}",
        chart=Chart(
            label=(
                f"{what} radius over proven radius of {row.system}, {results.folder}, σ = {plain(sigma)}: "
                f"{count(over.sum())} overclaims of {count(positive)} positive radii"
            ),
            x=Axis(label="radius that Certify proves", low=0, high=end),
            y=Axis(label=f"radius, {what}", low=0, high=end),
            diagonal="claimed = proven",
            clouds=[
                _cloud(f"backed: {count(backed.sum())}", backed, images, end, crosses=False),
                _cloud(f"overclaim: {count(over.sum())}", over, images, end, crosses=True),
            ],
        ),
        take_away=(
            f"Served by one pass: {count(over.sum())} of {count(positive)} positive radii overclaim."
            if images.is_served
            else f"Nothing is served; the formula of Cohen et al. on one pass overclaims at {count(over.sum())} of "
            f"{count(positive)} images."
        ),
        promise=(
            f"{count(row.proven_images)} images of split “{row.one_pass.images.split}”; "
            f"{row.settings.monte_carlo.described}. {_promised(row)} A cross below the diagonal names another class."
        ),
        numbers=_by_radius(results, images, sigma),
    )


def _promised(row: SystemRow) -> str:
    if row.calibration is None:
        return f"No promise could be made: {row.refused.split(';')[0]}." if row.refused else "Nothing is promised."
    return (
        f"Promised: a share of at most {plain(row.calibration.alpha)}, with confidence "
        f"{plain(1 - row.settings.calibration_delta)}, for this calibration by itself."
    )


def _cloud(name: str, chosen: NDArray[np.bool_], images: ProvenImages, end: float, *, crosses: bool) -> Cloud:
    claimed, proven, what = images.claimed, images.proven, images.what
    found = [Observation(float(proven[i]), float(claimed[i]), int(i)) for i in np.flatnonzero(chosen)]
    kind = "overclaim" if crosses else "backed"

    def says(members: Sequence[Observation]) -> str:
        if len(members) == 1:
            one = members[0]
            return f"image {one.index}, {kind}: {what} {decimals(one.y)}, proven {decimals(one.x)}"
        lowest, highest = min(one.y for one in members), max(one.y for one in members)
        least, most = min(one.x for one in members), max(one.x for one in members)
        return (
            f"{count(len(members))} images, {kind}: {what} {decimals(lowest)} to {decimals(highest)}, proven "
            f"{decimals(least)} to {decimals(most)}"
        )

    return Cloud(name=name, points=thinned(found, end=end, says=says), style=5 if crosses else 1, crosses=crosses)


def _by_radius(results: DatasetResults, images: ProvenImages, sigma: float) -> Table:
    claimed, over, what, row = images.claimed, images.overclaims, images.what, images.row
    top = max((float(value) for value in claimed if np.isfinite(value)), default=0.0) or 1.0
    lines = []
    for low, high in pairwise(np.linspace(0, round_up(top), _BANDS + 1).tolist()):
        inside = np.asarray((claimed > low) & (claimed <= high))
        both = np.asarray(over & inside)
        lines.append([f"{plain(low)} to {plain(high)}", count(inside.sum()), count(both.sum()), _share(both, inside)])
    positive = np.asarray(claimed > 0)
    lines.append(["all", count(positive.sum()), count(over.sum()), _share(over, positive)])
    return Table(
        caption=f"{row.system}, {results.folder}, σ = {plain(sigma)}: overclaims by {what} radius",
        headings=[f"{what} radius", "images", "overclaims", "share"],
        rows=lines,
        sources=[results.file("systems")],
    )


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> str:
    return percentage(float(part.sum() / whole.sum()) if whole.any() else None)


def _tiers(results: DatasetResults, sigma: float) -> list[Block]:
    found = [row for name in _TIER_SYSTEMS if (row := results.row(name, sigma)) and row.noisy and row.confirmed]
    return [Beside([_tier_figure(results, row, sigma) for row in found[:2]])] if found else []


def _tier_shares(row: SystemRow) -> dict[str, ShareCurve]:
    """Certified accuracy at the radii of `confirmed`, by tier: of one pass on all images, else on those with votes."""
    at = np.array([one.radius for one in row.confirmed])
    right = np.array(is_right(row)[: row.proven_images])
    confirmed = [int((np.array(one.proven) & right).sum()) for one in row.confirmed]
    found = {"one pass": served_curve(row, at), "confirm": curve_of(confirmed, row.proven_images, at)}
    certify = certify_curve(row, at)
    return found if certify is None else {**found, "certify": certify}


def tier_curves(row: SystemRow) -> Chart:
    """The same as curves."""
    radii = [one.radius for one in row.confirmed]
    return Chart(
        label=f"Certified accuracy over radius of {row.system} by one pass, confirm and Certify",
        x=Axis(label="L2 radius, pixels in [0,1]", low=0, high=max(radii, default=1.0)),
        y=Axis(label="certified accuracy", low=0, high=1, percent=True),
        lines=[curve_line(name, curve, style=TIER_STYLES[name]) for name, curve in _tier_shares(row).items()],
    )


def _tier_figure(results: DatasetResults, row: SystemRow, sigma: float) -> Figure:
    radii = [one.radius for one in row.confirmed]
    shares = {name: curve.share.tolist() for name, curve in _tier_shares(row).items()}
    certify = row.settings.monte_carlo
    passes = certify.n0 + certify.n
    votes = [float(np.mean(one.votes)) for one in row.confirmed]
    return Figure(
        name=anchor("tiers", results.folder, row.system, plain(sigma)),
        title=f"Tiers of {named(row.system)}, {results.folder}, σ = {plain(sigma)}",
        chart=tier_curves(row),
        take_away=(
            f"At radius {plain(radii[0])} one pass certifies {percentage(shares['one pass'][0])}, confirm "
            f"{percentage(shares['confirm'][0])} with {decimals(votes[0], 0)} passes an image, Certify "
            f"{percentage(shares['certify'][0])} with {count(passes)}."
        ),
        promise=(
            f"{count(row.proven_images)} images. Confirm: α = {plain(row.settings.confirm_alpha)} for each image; "
            f"{certify.described}. Bands: exact, confidence {BAND_CONFIDENCE:g}."
        ),
        numbers=Table(
            caption=f"{row.system}, {results.folder}, σ = {plain(sigma)}: certified accuracy by tier in percent, and "
            "passes",
            headings=[
                "radius",
                *shares,
                "passes: one pass",
                "confirm, mean",
                "Certify",
                "ms: one pass",
                "confirm",
                "Certify",
            ],
            rows=[
                [
                    plain(radius),
                    *(in_percent(values[i]) for values in shares.values()),
                    "1",
                    decimals(votes[i], 1),
                    count(passes),
                    decimals(row.times.one_pass, 2),
                    decimals(_milliseconds(row, votes[i]), 2),
                    decimals(_milliseconds(row, passes), 2),
                ]
                for i, radius in enumerate(radii)
            ],
            sources=[results.file("systems")],
            note="ms: in ONNX Runtime without a server, passes times what one takes in full batches.",
        ),
    )


def _milliseconds(row: SystemRow, passes: float) -> float | None:
    return None if row.times.noisy_pass is None else row.times.noisy_pass * passes
