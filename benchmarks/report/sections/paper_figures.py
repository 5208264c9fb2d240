"""Figures 1, 2 and 5 of the paper on each data set that was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heatserve.benchmarks.paper.summary import (
    BAND_CONFIDENCE,
    ShareCurve,
    attacked_curve,
    paper_curve,
    served_curve,
)
from heatserve.benchmarks.records.paper import AttackRow, SystemRow
from heatserve.benchmarks.report.charts.chart import Axis, Chart, Curve
from heatserve.benchmarks.report.charts.scale import Scale, round_up
from heatserve.benchmarks.report.curves import curve_line, leaders
from heatserve.benchmarks.report.document import Beside, Block, Figure, Prose, Section, Table, anchor
from heatserve.benchmarks.report.formats import count, decimals, in_percent, joined, plain
from heatserve.benchmarks.report.images import named, style_of
from heatserve.benchmarks.report.reported import DatasetResults, ReportedResults
from heatserve.certification.radius import Float64Array

_ATTACKS = ("PGD", "DDN")
_SHOWN = 25
"""Points of a curve, besides those at the ticks of the axis and at σ."""


def figures_section(reported: ReportedResults) -> Section | None:
    """Certified accuracy over radius, and share attacked over distance."""
    blocks: list[Block] = []
    for results in reported.paper:
        for sigma in results.sigmas:
            blocks.append(Beside(_figure_1(results, sigma)))
            attacked = [found for attack in _ATTACKS if (found := _attack_figure(results, sigma, attack))]
            blocks += [Beside(attacked)] if attacked else []
    if not blocks:
        return None
    start = Prose(
        "Figure 1 of the paper is certified accuracy over radius; Figures 2 and 5 are the share of images that "
        "attacks misclassify over distance. Beside Figure 1 stands what the paper has no curve for: what one pass "
        "may serve."
    )
    return Section("figures", "The paper’s figures", [start, *blocks])


def _figure_1(results: DatasetResults, sigma: float) -> list[Figure]:
    rows = results.rows(sigma)
    high = round_up(max((_largest(row) for row in rows), default=1.0))
    at = _places(high, sigma)
    how = rows[0].settings.monte_carlo.described
    return [
        _over_radius(
            results,
            sigma,
            {row.system: curve for row in rows if (curve := _as_the_paper(row, at)) is not None},
            "as the paper certifies",
            f"Stochastic systems by {how}; deterministic ones by the votes for the class that their single pass "
            "names, as in the paper; a 1-Lipschitz network by what it proves itself.",
        ),
        _over_radius(
            results,
            sigma,
            {row.system: served_curve(row, at) for row in rows},
            "one pass, as it is served",
            "An overclaim whose class is right counts as certified.",
        ),
    ]


def _as_the_paper(row: SystemRow, at: Float64Array) -> ShareCurve | None:
    return served_curve(row, at) if row.kind == "deterministic" else paper_curve(row, at)


def _largest(row: SystemRow) -> float:
    """Of the radii that either figure shows."""
    proven = (*row.noisy.top_k_radius, *row.noisy.named_radius) if row.noisy else ()
    return max((radius for radius in (*row.one_pass.served, *proven) if np.isfinite(radius)), default=0.0)


def _over_radius(
    results: DatasetResults, sigma: float, curves: dict[str, ShareCurve], way: str, promise: str
) -> Figure:
    title = f"Figure 1, {results.folder}, σ = {plain(sigma)}: {way}"
    at = next(iter(curves.values())).at
    middle = int(np.searchsorted(at, min(sigma, at[-1])))
    totals = sorted({curve.total for curve in curves.values()})
    lines = [
        curve_line(name, curve, style=style_of(name), marks=False, legend=named(name)) for name, curve in curves.items()
    ]
    return Figure(
        name=anchor("figure-1", results.folder, plain(sigma), way),
        title=title,
        chart=_chart(
            f"Certified accuracy over radius. {title}", "L2 radius, pixels in [0,1]", "certified accuracy", lines
        ),
        take_away=f"At radius {plain(at[middle])} {leaders(curves, middle, 'certifies most')}.",
        promise=(
            f"{promise} {joined(count(total) for total in totals)} images of split “{_split(results)}”. Bands: exact, "
            f"confidence {BAND_CONFIDENCE:g} at each radius."
        ),
        numbers=_numbers(title, "r", sigma, curves, [results.file("systems")]),
    )


def _split(results: DatasetResults) -> str:
    return results.systems.rows[0].one_pass.images.split if results.systems else ""


def _chart(label: str, x: str, y: str, lines: Sequence[Curve]) -> Chart:
    high = max(point.x for line in lines for point in line.points)
    return Chart(
        label=label,
        x=Axis(label=x, low=0, high=high),
        y=Axis(label=y, low=0, high=1, percent=True),
        lines=lines,
    )


def _attack_figure(results: DatasetResults, sigma: float, attack: str) -> Figure | None:
    rows = [found for row in results.rows(sigma) if (found := results.attack(row.system, sigma, attack))]
    if not rows:
        return None
    number = "2" if results.view(sigma).published.number == 3 else "5"  # the paper's, of the same data set as its table
    title = f"Figure {number}, {results.folder}, σ = {plain(sigma)}: {attack}"
    at = _places(_limit(rows), sigma)
    curves = {row.system: attacked_curve(row, at) for row in rows}
    middle = int(np.searchsorted(at, min(max(sigma, rows[0].nearest), at[-1])))
    lines = [
        curve_line(name, curve, style=style_of(name), what="distance", marks=False, legend=named(name))
        for name, curve in curves.items()
    ]
    return Figure(
        name=anchor("attacked", results.folder, plain(sigma), attack),
        title=title,
        chart=_chart(f"Share of images misclassified. {title}", "L2 distance, pixels in [0,1]", "misclassified", lines),
        take_away=(
            f"Within distance {plain(at[middle])}, by {attack}, "
            f"{leaders(curves, middle, 'has the fewest misclassified', fewest=True)}."
        ),
        promise=_attacked(rows),
        numbers=_numbers(title, "d", sigma, curves, [results.file("attacks")]),
    )


def _attacked(rows: Sequence[AttackRow]) -> str:
    settings = rows[0].settings
    draws = sorted({row.settings.noise_samples for row in rows if row.settings.noise_samples})
    averaged = (
        f"; gradients of stochastic systems averaged over {joined(count(one) for one in draws)} draws" if draws else ""
    )
    totals = joined(count(size) for size in sorted({len(row.distances) for row in rows}))
    return (
        f"{totals} images of split “{rows[0].images.split}”, {count(settings.steps)} steps, limit "
        f"{plain(settings.limit)}, top {settings.top_k}{averaged}. {rows[0].attack} looks no nearer than "
        f"{decimals(rows[0].nearest, 2)}: up to there the curves are the errors without an attack. An attack that "
        f"fails proves nothing. Bands: exact, confidence {BAND_CONFIDENCE:g} at each distance."
    )


def _limit(rows: Sequence[AttackRow]) -> float:
    """Where the curves end: the farthest success, or the limit where it is nearer."""
    farthest = [float(d) for row in rows for d in row.finite if np.isfinite(d)]
    return min(max(row.settings.limit for row in rows), round_up(max(farthest, default=1.0)))


def _places(high: float, sigma: float) -> Float64Array:
    """Where the curves have points: equally far from each other, at the ticks of the axis, and at σ."""
    even = np.linspace(0, high, _SHOWN)
    return np.asarray(np.unique(np.round([*even, *_ticks(high), min(sigma, high)], 6)), dtype=float)


def _ticks(high: float) -> list[float]:
    return [value for value, _ in Scale(Axis(label="", low=0, high=high), 0, 1).ticks()]


def _numbers(title: str, symbol: str, sigma: float, curves: dict[str, ShareCurve], sources: list[str]) -> Table:
    """A row for each curve, at the ticks of the axis and at σ."""
    at = next(iter(curves.values())).at
    places = {*np.round([*_ticks(float(at[-1])), min(sigma, at[-1])], 6)}
    listed = [i for i, place in enumerate(at) if place in places]
    return Table(
        caption=f"{title}; in percent",
        headings=["system", *(f"{symbol} = {plain(at[i])}" for i in listed)],
        rows=[[named(name), *(in_percent(float(curve.share[i])) for i in listed)] for name, curve in curves.items()],
        sources=sources,
    )
