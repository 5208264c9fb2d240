"""This system and the paper."""

from __future__ import annotations

import numpy as np

from heatserve.benchmarks.paper.published import TABLE_4, TABLE_4_SIGMA
from heatserve.benchmarks.report.comparisons.sides import Sides
from heatserve.benchmarks.report.document import Judgement
from heatserve.benchmarks.report.formats import count, decimals, percentage, plain, times
from heatserve.benchmarks.report.ratios import cpu_ratios
from heatserve.benchmarks.report.reported import DatasetResults, ReportedResults
from heatserve.export.card import Card


def with_paper(reported: ReportedResults) -> Judgement | None:
    """Speed, promises, Table 4, and what of the paper was not reached."""
    sides = Sides()
    _faster(sides, reported)
    for results in reported.paper:
        for sigma in results.sigmas:
            _adversarially_trained(sides, results, sigma)
    for name, card in reported.cards.items():
        _promises(sides, name, card)
    if any("confirm" in record.totals for record in reported.tier_attacks.values()):
        sides.better.append(
            "Where one answer matters, confirm proves it for that image. The paper has one pass, which proves "
            "nothing at a single image, or Monte Carlo."
        )
    _smaller(sides, reported)
    return sides.judgement("the paper")


def _faster(sides: Sides, reported: ReportedResults) -> None:
    """The ratios of Table 2 beside the paper's."""
    for found in cpu_ratios(reported):
        sides.used(found.source)
        through = found.through_server
        server = "" if through is None else f" ({times(through)} through the server)"
        sentence = (
            f"{found.network}, CPU: one pass takes {times(found.in_process)} less time than "
            f"{count(found.published.n0)} noisy ones{server}; the paper’s Table 2 has {times(found.published.ratio)}."
        )
        if found.is_settled:
            sides.by(ours=found.in_process, theirs=found.published.ratio, more_is_better=True, sentence=sentence)
        else:
            sides.unsettled.append(sentence)


def _adversarially_trained(sides: Sides, results: DatasetResults, sigma: float) -> None:
    """Table 4: what heat smoothing adds to adversarial training; by the mean, in σ, which radii are measured by."""
    before, after = (results.row(name, sigma) for name in ("madry", "madry-heat"))
    if before is None or after is None or before.noisy is None or after.noisy is None:
        return
    sides.used(results.file("systems"))
    ours = [np.array(row.noisy.proven_radius) for row in (before, after) if row.noisy]
    medians, means = ([float(of(radii)) for radii in ours] for of in (np.median, np.mean))
    there = [TABLE_4[name] for name in ("madry", "madry-heat")]
    sides.by(
        ours=(means[1] - means[0]) / sigma,
        theirs=(there[1].mean - there[0].mean) / TABLE_4_SIGMA,
        more_is_better=True,
        sentence=f"{results.folder}, σ = {plain(sigma)}: heat smoothing after adversarial training takes the mean "
        f"proven radius from {decimals(means[0])} to {decimals(means[1])}, the median from {decimals(medians[0])} to "
        f"{decimals(medians[1])}; the paper’s Table 4, on ImageNet-1k at σ = {plain(TABLE_4_SIGMA)}, the mean from "
        f"{decimals(there[0].mean)} to {decimals(there[1].mean)}, the median from {decimals(there[0].median)} to "
        f"{decimals(there[1].median)}. Which side it is on is decided by the gain of the mean in σ.",
    )


def _promises(sides: Sides, name: str, card: Card) -> None:
    """What calibration adds to a formula on one pass, and what it costs."""
    found, calibration = card.evaluation, card.calibration
    if found is None or calibration is None:
        return
    nominal, over = found.nominal, found.calibrated
    sides.better.append(
        f"{name}: a radius carries a promise, at most {percentage(calibration.alpha, 0)} of the positive ones "
        f"overclaim with confidence {plain(calibration.confidence)} ({count(over.overclaims)} of "
        f"{count(over.positive)} did on test images). The formula of Cohen et al. on one pass overclaims "
        f"at {count(nominal.overclaims)} of {count(nominal.positive)} images of this network; the paper certifies by "
        "votes, and measures no overclaims."
    )
    shares = found.certified_accuracy
    at = shares.radii.index(0.25) if 0.25 in shares.radii else len(shares.radii) // 2
    sides.by(
        ours=shares.single_pass[at],
        theirs=shares.nominal[at],
        more_is_better=True,
        sentence=f"{name}: what may be served is less than that formula says: "
        f"{percentage(shares.single_pass[at])} certified at radius {plain(shares.radii[at])}, where the formula says "
        f"{percentage(shares.nominal[at])} and Certify proves {percentage(shares.monte_carlo[at])}.",
    )


def _smaller(sides: Sides, reported: ReportedResults) -> None:
    """What of the paper was not reached."""
    for results in reported.paper:
        rows = [row for sigma in results.sigmas if (row := results.row("heat", sigma))]
        if results.folder != "cifar10" or not rows:
            continue
        heat = rows[0]
        sides.used(results.file("systems"))
        sides.worse.append(
            f"The trainings are short and the network is small: {heat.architecture}, {count(heat.trained.epochs)} "
            "epochs of heat smoothing, where the paper trains a ResNet-34 for five times 200 epochs on CIFAR-10, and "
            "a ResNet-50 on ImageNet-1k, which was not run here."
        )
        sides.unsettled.append("Absolute accuracies and L-bounds: another network, another training.")
