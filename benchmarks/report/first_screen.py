"""What the first screen says: the verdict, and the three figures that tell most."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from heatserve.benchmarks.paper.summary import certify_curve, served_curve
from heatserve.benchmarks.report.charts.chart import Bar, BarChart, Chart
from heatserve.benchmarks.report.document import Highlight
from heatserve.benchmarks.report.formats import DASH, count, percentage, plain, times
from heatserve.benchmarks.report.ratios import cpu_ratios
from heatserve.benchmarks.report.reported import ReportedResults
from heatserve.benchmarks.report.sections.accuracy import served_chart
from heatserve.benchmarks.report.sections.attacks import tier_chart
from heatserve.benchmarks.report.sections.reliability import tier_curves
from heatserve.export.card import Card

SPOKEN_NAMES = {"cifar10": "CIFAR-10", "digits": "digits", "imagenet": "ImageNet-1k"}
"""How data sets are called in a sentence."""
_NO_OVERCLAIMS, _OVERCLAIMS = "no overclaim counts", "overclaims of the right class count"
_HIGHLIGHTED = 3
"""Curves of a chart that the first screen shows."""


@dataclass(frozen=True)
class _Compared:
    """One pass beside Certify, on the same images."""

    dataset: str
    images: int
    radius: float
    one_pass: float
    counted: str
    """What counts for one pass."""
    certify: float
    passes: int
    """Of Certify, for an image."""
    chart: Chart
    leads_to: str


def verdict(reported: ReportedResults) -> list[str]:
    """Two or three sentences: what is better, what it costs, and what has to be known before it is relied on."""
    said = []
    found = _compared(reported)
    if found:
        said.append(
            f"One forward pass certifies {percentage(found.one_pass)} of {count(found.images)} images of "
            f"{found.dataset} at radius {plain(found.radius)} ({found.counted}); Monte Carlo, with "
            f"{count(found.passes)} noisy passes for each of them, {percentage(found.certify)}"
            f"{_times_as_long(reported)}."
        )
    promised = [card for card in _statistical(reported) if card.calibration]
    if promised and promised[0].calibration:
        promise = promised[0].calibration
        said.append(
            f"What one pass promises is a rate, for images like those of the calibration: of {promised[0].model}, at "
            f"most {percentage(promise.alpha, 0)} of the radii are too large, with confidence "
            f"{plain(promise.confidence)}. It is no protection against an image that somebody made."
        )
    if any("confirm" in record.totals for record in reported.tier_attacks.values()):
        said.append(_about_confirm(reported))
    return said


def _statistical(reported: ReportedResults) -> list[Card]:
    """Cards with figures, those of the largest networks' data set first."""
    found = [card for card in reported.cards.values() if card.evaluation]
    return sorted(found, key=lambda card: (-card.input_shape[1] * card.input_shape[2], card.model))


def _compared(reported: ReportedResults) -> _Compared | None:
    """From a card or, where there is none, from the systems of the paper's command."""
    cards = _statistical(reported)
    return _from_card(cards[0]) if cards else _from_systems(reported)


def _from_card(card: Card) -> _Compared:
    found = card.evaluation
    assert found is not None  # `_statistical` chose it by that
    shares = found.certified_accuracy
    chart = served_chart(card.model, card)
    at = shares.radii.index(card.sigma) if card.sigma in shares.radii else len(shares.radii) // 2
    return _Compared(
        dataset=SPOKEN_NAMES.get(card.trained_on, card.trained_on),
        images=found.data.images,
        radius=shares.radii[at],
        one_pass=shares.backed[at] if shares.backed else shares.single_pass[at],
        counted=_NO_OVERCLAIMS if shares.backed else _OVERCLAIMS,
        certify=shares.monte_carlo[at],
        passes=found.monte_carlo.n0 + found.monte_carlo.n,
        chart=replace(chart, lines=[line for line in chart.lines if not line.name.startswith(("nominal", "L-bound"))]),
        leads_to=f"served-{card.model}",
    )


def _from_systems(reported: ReportedResults) -> _Compared | None:
    """The system whose calibrated pass keeps most at its σ."""
    best: _Compared | None = None
    for results in reported.paper:
        for row in (row for sigma in results.sigmas for row in results.rows(sigma) if row.noisy and row.sigma):
            at = np.array([row.sigma])
            one, certify = float(served_curve(row, at).share[0]), certify_curve(row, at)
            if certify is not None and (best is None or one > best.one_pass):
                how = row.settings.monte_carlo
                best = _Compared(
                    dataset=SPOKEN_NAMES.get(results.folder, results.folder),
                    images=row.proven_images,
                    radius=float(at[0]),
                    one_pass=one,
                    counted=_OVERCLAIMS,
                    certify=float(certify.share[0]),
                    passes=how.n0 + how.n,
                    chart=tier_curves(row),
                    leads_to="reliability",
                )
    return best


def _times_as_long(reported: ReportedResults) -> str:
    """What `bench kinds` says of the time of both."""
    rows = {
        row.way: row for row in (reported.kept.kinds.rows if reported.kept.kinds else ()) if row.kind == "statistical"
    }
    one, certify = rows.get("one pass"), rows.get("certify")
    if one is None or certify is None or not one.milliseconds:
        return ""
    return f", and takes {times(certify.milliseconds / one.milliseconds)} as long"


def _about_confirm(reported: ReportedResults) -> str:
    """What attacks made of confirm, over all models."""
    records = [record for record in reported.tier_attacks.values() if "confirm" in record.totals]
    wrong, proofs = (
        sum(record.totals["confirm"].overclaims for record in records),
        sum(record.proofs("confirm") for record in records),
    )
    return (
        "Where one answer matters, confirm proves it in tens to hundreds of passes or says that it cannot: under "
        f"attack {count(wrong)} of its {count(proofs)} proofs were wrong."
    )


def highlights(reported: ReportedResults) -> list[Highlight]:
    """The three figures, as far as there are results for them."""
    found = [_accuracy(reported), _speed(reported), _attacked(reported)]
    return [one for one in found if one is not None][:3]


def _accuracy(reported: ReportedResults) -> Highlight | None:
    found = _compared(reported)
    if found is None:
        return None
    return Highlight(
        number=percentage(found.one_pass / found.certify, 0) if found.certify else DASH,
        sentence=f"of what Monte Carlo certifies on the same images at radius {plain(found.radius)}, one pass "
        f"certifies ({found.dataset}; {found.counted}); its promise is a rate",
        chart=replace(found.chart, lines=[replace(line, band=()) for line in found.chart.lines[:_HIGHLIGHTED]]),
        leads_to=found.leads_to,
    )


def _speed(reported: ReportedResults) -> Highlight | None:
    found = cpu_ratios(reported)
    if not found:
        return None
    bars = []
    for one in found:
        ours, theirs = times(one.in_process), times(one.published.ratio)
        bars.append(Bar(one.network, one.in_process, ours, f"{one.network}: n₀ noisy passes take {ours} as long", 1))
        bars.append(Bar("the paper, on its CPU", one.published.ratio, theirs, f"The paper, Table 2: {theirs}", 0))
    return Highlight(
        number=bars[0].shown,
        sentence=f"less time: one pass against n₀ noisy ones on a CPU ({bars[0].name}); the paper had {bars[1].shown}",
        chart=BarChart(label="n₀ noisy passes divided by one pass, ours and the paper’s", bars=bars[:6]),
        leads_to=found[0].leads_to,
    )


def _attacked(reported: ReportedResults) -> Highlight | None:
    if not reported.tier_attacks:
        return None
    name, record = next(iter(reported.tier_attacks.items()))
    confirm = record.totals.get("confirm")
    if confirm is None:
        return None
    return Highlight(
        number=f"{count(confirm.overclaims)} of {count(record.proofs('confirm'))}",
        sentence=f"proofs of confirm were wrong under attack ({name}, {count(confirm.questions)} questions); one pass "
        "is no defence",
        chart=tier_chart(record),
        leads_to=f"attack-tiers-{record.model}",
    )
