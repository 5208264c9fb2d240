"""Figures 1, 2 and 5 of the paper on each data set that was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heatserve.benchmarks.records.paper import AttackRow, SystemRow
from heatserve.benchmarks.report.charts.chart import Axis, Chart, Line
from heatserve.benchmarks.report.charts.scale import Scale, round_up
from heatserve.benchmarks.report.curves import BAND_CONFIDENCE, share_line
from heatserve.benchmarks.report.document import Beside, Block, Figure, Prose, Section, Table
from heatserve.benchmarks.report.evidence import Evidence, PaperResults
from heatserve.benchmarks.report.formats import count, in_percent, joined, percent, plain
from heatserve.benchmarks.report.images import Floats, Images, named, share_at_least, share_within, style_of
from heatserve.benchmarks.report.sections.accuracy import experiment_figures
from heatserve.benchmarks.report.sections.paper_tables import ATTACKS

_SHOWN = 33
"""Points of a curve."""


def figures_section(evidence: Evidence) -> Section | None:
    """Certified accuracy over radius, and share attacked over distance."""
    blocks: list[Block] = []
    for results in evidence.paper:
        for sigma in results.sigmas:
            blocks.append(Beside(_figure_1(results, sigma)))
            attacked = [found for attack in ATTACKS if (found := _attack_curves(results, sigma, attack))]
            blocks += [Beside(attacked)] if attacked else []
    if evidence.kept.cifar10 and not any(results.folder == "cifar10" and results.systems for results in evidence.paper):
        blocks += experiment_figures(evidence.kept.cifar10)
    if not blocks:
        return None
    start = Prose(
        "Figure 1 of the paper is certified accuracy over radius; Figures 2 and 5 are the share of images that attacks "
        "misclassify over distance. Beside Figure 1 stands what the paper has no curve for: what one pass may serve."
    )
    return Section("figures", "The paper’s figures", [start, *blocks])


def _figure_1(results: PaperResults, sigma: float) -> list[Figure]:
    rows = results.rows(sigma)
    high = round_up(max((_end(Images(row)) for row in rows), default=1.0))
    return [
        _over_radius(results, sigma, rows, high, served=False),
        _over_radius(results, sigma, rows, high, served=True),
    ]


def _end(images: Images) -> float:
    values = [*images.as_the_paper, *images.served]
    finite = [value for value in values if np.isfinite(value)]
    return max(finite, default=0.0)


def _over_radius(
    results: PaperResults, sigma: float, rows: Sequence[SystemRow], high: float, *, served: bool
) -> Figure:
    at = _places(high, sigma)
    way = "one pass, as it is served" if served else "as the paper certifies"
    title = f"Figure 1, {results.folder}, σ = {plain(sigma)}: {way}"
    radii = {row.system: Images(row).one_pass_certified if served else Images(row).as_the_paper for row in rows}
    lines = [
        share_line(
            named(row.system),
            at.tolist(),
            share_at_least(radii[row.system], at),
            style=style_of(row.system),
            images=len(radii[row.system]) or None,
        )
        for row in rows
    ]
    middle = int(np.searchsorted(at, min(sigma, high)))
    shares = {row.system: share_at_least(radii[row.system], at[[middle]])[0] or 0.0 for row in rows}
    best = max(shares, key=lambda name: shares[name])
    certify = rows[0].settings.monte_carlo
    promise = (
        "An overclaim whose class is right counts as certified. "
        if served
        else f"Stochastic systems by {certify.described}; deterministic ones by the votes for the class that their "
        f"single pass "
        "names, as in the paper; a 1-Lipschitz network by what it proves itself. "
    )
    return Figure(
        name=_anchor("figure-1", results, sigma, "served" if served else "paper"),
        title=title,
        chart=Chart(
            label=f"Certified accuracy over radius, {results.folder}, σ = {plain(sigma)}, {way}",
            x=Axis(label="L2 radius, pixels in [0,1]", low=0, high=high),
            y=Axis(label="certified accuracy", low=0, high=1, percent=True),
            lines=[_quiet(line) for line in lines],
        ),
        take_away=f"At radius {plain(at[middle])} {named(best)} certifies most: {percent(shares[best])}.",
        promise=promise
        + f"Images: {_images(radii)}, split “{rows[0].one_pass.images.split}”. Bands: exact, confidence "
        + f"{BAND_CONFIDENCE:g} at each radius.",
        numbers=_numbers(title, "r", lines, at, [results.file("systems")]),
    )


def _places(high: float, sigma: float) -> Floats:
    """Where the curves have points: equally far from each other, at the ticks of the axis, and at σ."""
    even = np.linspace(0, high, _SHOWN)
    found = np.unique(np.round([*even, *_ticks(high), min(sigma, high)], 6))
    return np.asarray(found, dtype=float)


def _ticks(high: float) -> list[float]:
    return [value for value, _ in Scale(Axis(label="", low=0, high=high), 0, 1).ticks()]


def _images(radii: dict[str, Floats]) -> str:
    sizes = sorted({len(values) for values in radii.values()})
    return joined(count(size) for size in sizes)


def _quiet(line: Line) -> Line:
    """Without marks: there are too many points for them, and each still says its numbers."""
    return Line(name=line.name, points=line.points, style=line.style, band=line.band, steps=line.steps, marks=False)


def _attack_curves(results: PaperResults, sigma: float, attack: str) -> Figure | None:
    rows = [found for row in results.rows(sigma) if (found := results.attack(row.system, sigma, attack))]
    if not rows:
        return None
    high = _limit(rows)
    at = _places(high, sigma)
    lines = [
        share_line(
            named(row.system),
            at.tolist(),
            share_within(row, at),
            style=style_of(row.system),
            images=len(row.distances),
            what="distance",
        )
        for row in rows
    ]
    middle = int(np.searchsorted(at, min(sigma, high)))
    least = min(rows, key=lambda row: share_within(row, at[[middle]])[0] or 0.0)
    share = share_within(least, at[[middle]])[0]
    settings = rows[0].settings
    title = f"Figures 2 and 5, {results.folder}, σ = {plain(sigma)}: {attack}"
    draws = sorted({row.settings.noise_samples for row in rows if row.settings.noise_samples})
    averaged = (
        f"; gradients of stochastic systems averaged over {joined(count(one) for one in draws)} draws" if draws else ""
    )
    return Figure(
        name=_anchor("attacked", results, sigma, attack),
        title=title,
        chart=Chart(
            label=f"Share of images that {attack} misclassifies, over distance, {results.folder}, σ = {plain(sigma)}",
            x=Axis(label="L2 distance, pixels in [0,1]", low=0, high=high),
            y=Axis(label="misclassified", low=0, high=1, percent=True),
            lines=[_quiet(line) for line in lines],
        ),
        take_away=(
            f"Within distance {plain(at[middle])}, {attack} misclassifies fewest images of {named(least.system)}: "
            f"{percent(share)}."
        ),
        promise=(
            f"{joined(count(size) for size in sorted({len(row.distances) for row in rows}))} images of split "
            f"“{rows[0].images.split}”, {count(settings.steps)} steps, limit {plain(settings.limit)}, top "
            f"{settings.top_k}"
            f"{averaged}. An attack that fails proves nothing. Bands: exact, confidence {BAND_CONFIDENCE:g}."
        ),
        numbers=_numbers(title, "d", lines, at, [results.file("attacks")]),
    )


def _limit(rows: Sequence[AttackRow]) -> float:
    """Where the curves end: the farthest success, or the limit where it is nearer."""
    farthest = [float(d) for row in rows for d in row.finite if np.isfinite(d)]
    return min(max(row.settings.limit for row in rows), round_up(max(farthest, default=1.0)))


def _numbers(what: str, symbol: str, lines: Sequence[Line], at: Floats, sources: list[str]) -> Table:
    """A row for each curve, at some of its points."""
    round_ones = np.round(_ticks(float(at[-1])), 6)
    listed = [i for i, place in enumerate(at) if place in round_ones]
    shares = {line.name: {point.x: point.y for point in line.points} for line in lines}
    return Table(
        caption=f"{what}; in percent",
        headings=["system", *(f"{symbol} = {plain(at[i])}" for i in listed)],
        rows=[[line.name, *(in_percent(shares[line.name].get(float(at[i]))) for i in listed)] for line in lines],
        sources=sources,
    )


def _anchor(name: str, results: PaperResults, sigma: float, more: str) -> str:
    text = f"{name}-{results.folder}-{plain(sigma)}-{more}"
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text).lower()
