"""This system and RRISE, a single pass with conformal calibration."""

from __future__ import annotations

from math import sqrt

from heatserve.benchmarks.records.calibration import PromisedRow
from heatserve.benchmarks.report.comparisons.sides import Sides
from heatserve.benchmarks.report.document import Judgement
from heatserve.benchmarks.report.formats import count, decimals, joined, plain, points
from heatserve.benchmarks.report.published import (
    RRISE,
    RRISE_DATASET,
    RRISE_GAP,
    RRISE_PASSES,
    RRISE_QUERIES,
)
from heatserve.benchmarks.report.reported import ReportedResults

_SETTLED = 2.0
"""Standard errors by which two numbers have to differ before one of them is called better."""
_ALONE = "alone"
"""In the name of a calibration of one radius only."""


def with_rrise(reported: ReportedResults) -> Judgement | None:
    """The gap to Monte Carlo, the one radius that matters, and searches."""
    sides = Sides()
    for name, card in reported.cards.items():
        if card.evaluation is None or card.trained_on != RRISE_DATASET:
            continue
        shares = card.evaluation.certified_accuracy
        gaps = {
            radius: proven - served
            for radius, served, proven in zip(
                shares.radii, shares.backed or shares.single_pass, shares.monte_carlo, strict=True
            )
        }
        radius, gap = max(gaps.items(), key=lambda item: item[1])
        sides.by(
            ours=gap,
            theirs=RRISE_GAP,
            more_is_better=False,
            sentence=f"{name}: where one calibration serves all radii, one pass stays up to {points(gap)} below "
            f"Certify (at radius {plain(radius)}); {RRISE.name} reports at most {decimals(100 * RRISE_GAP, 2)} "
            "points on its data sets.",
        )
    _one_radius(sides, reported)
    _searched(sides, reported)
    sides.unsettled.append(
        f"{RRISE.name} replaces up to {count(RRISE_PASSES)} noisy passes by one, as one pass does here, and pays its "
        f"own training back after about {count(RRISE_QUERIES)} queries. Its networks and data were not run here."
    )
    return sides.judgement(
        f"{RRISE.name} (Robust Radius Inference via a Surrogate Estimator), one pass of a network that learned the "
        "counts of Monte Carlo"
    )


def _searched(sides: Sides, reported: ReportedResults) -> None:
    """What a search makes of a calibrated pass, and of confirm."""
    found = {name: record.totals for name, record in reported.tier_attacks.items() if "confirm" in record.totals}
    found = {name: totals for name, totals in found.items() if "one pass" in totals}
    if not found:
        return
    sides.used(*(f"attack-tiers-{name}.json" for name in found))
    overclaims = joined(
        f"{count(totals['one pass'].overclaims)} of {count(totals['one pass'].questions)} questions ({name})"
        for name, totals in found.items()
    )
    wrong = sum(totals["confirm"].overclaims for totals in found.values())
    proofs = sum(reported.tier_attacks[name].proofs("confirm") for name in found)
    sides.by(
        ours=wrong / max(proofs, 1),
        theirs=max(totals["one pass"].overclaims / max(totals["one pass"].questions, 1) for totals in found.values()),
        more_is_better=False,
        sentence="A pass that was calibrated on images of one kind, by conformal calibration as there or by "
        f"tests as here, can be fooled: a search near images found overclaims of ours in {overclaims}. Confirm is "
        f"there for that, and {count(wrong)} of its {count(proofs)} proofs were wrong.",
    )


def _one_radius(sides: Sides, reported: ReportedResults) -> None:
    """The calibration for one radius alone, where its gap was measured."""
    record = reported.kept.calibration
    if record is None:
        return
    sides.used("calibration.json")
    graph = record.model.graph_sha256
    is_served = graph in {card.graph_sha256 for card in reported.cards.values()}
    network = f"{record.model.name}, graph {graph[:12]}{'' if is_served else ', which is not the one that is served'}"
    for row in record.rows:
        if not isinstance(row, PromisedRow) or _ALONE not in row.way or row.promise != "conditional":
            continue
        radius = float(row.way.split("r = ")[1].split()[0])
        at = record.radii.index(radius)
        gap, backed = record.certify[at] - row.single_pass[at], record.certify[at] - row.backed[at]
        error = _standard_error(row.single_pass[at], record.certify[at], row.backed[at], record.test.images)
        sentence = (
            f"Where only the radius {plain(radius)} is served ({network}), at α = {plain(row.alpha)}, one pass is "
            f"{points(gap)} {'below' if gap > 0 else 'above'} Certify with n = {count(record.test_monte_carlo.n)} "
            f"(standard error {decimals(100 * error, 1)}), and {points(backed)} below where no overclaim counts."
        )
        if abs(gap - RRISE_GAP) < _SETTLED * error:
            sides.unsettled.append(f"{sentence} That does not tell it from {decimals(100 * RRISE_GAP, 2)}.")
        else:
            sides.by(ours=gap, theirs=RRISE_GAP, more_is_better=False, sentence=sentence)


def _standard_error(one_pass: float, certify: float, both: float, images: int) -> float:
    """Of the difference of two shares of the same images; `both`: of those that count in each."""
    only_pass, only_certify = one_pass - both, certify - both
    return sqrt(max(only_pass + only_certify - (only_pass - only_certify) ** 2, 0.0) / images)
