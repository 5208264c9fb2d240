"""Where this system is better and where it is worse, in sentences whose numbers are those of the results."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt

from heatserve.benchmarks.paper.published import TABLE_4
from heatserve.benchmarks.records.calibration import PromisedRow
from heatserve.benchmarks.records.kinds import KindRow, KindsRecord
from heatserve.benchmarks.report.document import Judgement, Prose, Section
from heatserve.benchmarks.report.evidence import DatasetResults, Evidence
from heatserve.benchmarks.report.formats import count, decimals, joined, percent, plain, points, significant, times
from heatserve.benchmarks.report.images import median_proven
from heatserve.benchmarks.report.published import (
    LIRESNET,
    LIRESNET_ACCURACY,
    LIRESNET_CERTIFIED,
    LIRESNET_DATASET,
    RRISE,
    RRISE_GAP,
    RRISE_PASSES,
    RRISE_QUERIES,
    published_seconds,
)
from heatserve.benchmarks.report.sections.kinds import largest_common
from heatserve.export.card import Card

_SETTLED = 2.0
"""Standard errors by which two numbers have to differ before one of them is called better."""
_ALONE = "alone"
"""In the name of a calibration of one radius only."""


@dataclass
class _Sides:
    """Sentences, sorted by what their numbers say."""

    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)

    def by(self, *, ours: float, theirs: float, more_is_better: bool, sentence: str) -> None:
        """A sentence about two numbers, on the side that they decide."""
        if ours == theirs:
            self.unsettled.append(sentence)
        else:
            (self.better if (ours > theirs) is more_is_better else self.worse).append(sentence)

    def judgement(self, than: str) -> Judgement | None:
        """None: there is nothing to say."""
        if not (self.better or self.worse):
            return None
        return Judgement(than, self.better, self.worse, self.unsettled)


def comparisons_section(evidence: Evidence) -> Section | None:
    """All four comparisons, as far as the results support them."""
    found = [
        _with_paper(evidence),
        _with_rrise(evidence),
        _with_lipschitz(evidence),
        _with_monte_carlo(evidence),
    ]
    judged = [one for one in found if one is not None]
    if not judged:
        return None
    start = Prose(
        "Each sentence stands on the side that its numbers decide. Numbers of others are those that they published, "
        "on their networks and machines; nothing of theirs was run here unless a sentence says so."
    )
    return Section("words", "In plain words: better and worse", [start, *judged])


def _with_paper(evidence: Evidence) -> Judgement | None:
    sides = _Sides()
    if evidence.kept.latency:
        for name, found in evidence.kept.latency.shapes.items():
            published = published_seconds(name)
            if published and "stochastic / plain" in found.ratios:
                ours = found.ratios["stochastic / plain"].p50
                through = found.ratios.get("stochastic / grpc")
                server = f" ({times(through.p50)} through the server)" if through else ""
                sides.by(
                    ours=ours,
                    theirs=published.ratio,
                    more_is_better=True,
                    sentence=f"{name}, CPU: one pass is {times(ours)} faster than {count(found.n0)} noisy "
                    f"ones{server}; the paper’s Table 2 has {times(published.ratio)}.",
                )
    for results in evidence.paper:
        for sigma in results.sigmas:
            _adversarially_trained(sides, results, sigma)
    for name, card in evidence.cards.items():
        _promises(sides, name, card)
    if any("confirm" in record.totals for record in evidence.tier_attacks.values()):
        sides.better.append(
            "Where one answer matters, confirm proves it for that image. The paper has one pass, which proves "
            "nothing at a single image, or Monte Carlo."
        )
    _smaller(sides, evidence)
    return sides.judgement("the paper")


def _adversarially_trained(sides: _Sides, results: DatasetResults, sigma: float) -> None:
    """Table 4: what heat smoothing adds to adversarial training."""
    medians = {}
    for name in ("madry", "madry-heat"):
        row = results.row(name, sigma)
        medians[name] = None if row is None else median_proven(row)
    before, after = medians["madry"], medians["madry-heat"]
    if before is None or after is None:
        return
    theirs = TABLE_4["madry-heat"].median - TABLE_4["madry"].median
    sides.by(
        ours=after - before,
        theirs=theirs,
        more_is_better=True,
        sentence=f"{results.folder}, σ = {plain(sigma)}: heat smoothing after adversarial training takes the median "
        f"proven radius from {decimals(before)} to {decimals(after)}; the paper’s Table 4, on ImageNet-1k, from "
        f"{decimals(TABLE_4['madry'].median)} to {decimals(TABLE_4['madry-heat'].median)}.",
    )


def _promises(sides: _Sides, name: str, card: Card) -> None:
    """What calibration adds to the paper's formula, and what it costs."""
    found, calibration = card.evaluation, card.calibration
    if found is None or calibration is None:
        return
    nominal, over = found.nominal, found.calibrated
    sides.better.append(
        f"{name}: a radius carries a promise, at most {percent(calibration.alpha, 0)} of the positive ones overclaim "
        f"with confidence {plain(calibration.confidence)} ({count(over.overclaims)} of {count(over.positive)} did on "
        f"test images). The paper’s own formula overclaims at {count(nominal.overclaims)} of "
        f"{count(nominal.positive)} images of this network, and the paper measures no overclaims."
    )
    shares = found.certified_accuracy
    at = shares.radii.index(0.25) if 0.25 in shares.radii else len(shares.radii) // 2
    sides.by(
        ours=shares.single_pass[at],
        theirs=shares.nominal[at],
        more_is_better=True,
        sentence=f"{name}: what may be served is less than the paper’s formula says: "
        f"{percent(shares.single_pass[at])} certified at radius {plain(shares.radii[at])}, where the formula says "
        f"{percent(shares.nominal[at])} and Certify proves {percent(shares.monte_carlo[at])}.",
    )


def _smaller(sides: _Sides, evidence: Evidence) -> None:
    """What of the paper was not reached."""
    rows = evidence.kept.cifar10.rows if evidence.kept.cifar10 else ()
    heat = [row for row in rows if row.system == "heat"]
    for row in heat[:1]:
        sides.worse.append(
            f"The trainings are short and the network is small: {row.architecture}, {count(row.epochs)} epochs of "
            "heat smoothing, where the paper trains a ResNet-34 for five times 200 epochs on CIFAR-10, and a "
            "ResNet-50 on ImageNet-1k, which was not run here."
        )
    if heat:
        sides.unsettled.append("Absolute accuracies and L-bounds: another network, another training.")


def _with_rrise(evidence: Evidence) -> Judgement | None:
    sides = _Sides()
    for name, card in evidence.cards.items():
        if card.evaluation is None or card.trained_on != "cifar10":
            continue
        shares = card.evaluation.certified_accuracy
        gaps = {
            radius: proven - served
            for radius, served, proven in zip(shares.radii, shares.single_pass, shares.monte_carlo, strict=True)
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
    _one_radius(sides, evidence)
    _searched(sides, evidence)
    sides.unsettled.append(
        f"{RRISE.name} replaces up to {count(RRISE_PASSES)} noisy passes by one, as one pass does here, and pays its "
        f"own training back after about {count(RRISE_QUERIES)} queries. Its networks and data were not run here."
    )
    return sides.judgement(RRISE.name)


def _searched(sides: _Sides, evidence: Evidence) -> None:
    """What a search makes of a calibrated pass, and of confirm."""
    found = {name: record.totals for name, record in evidence.tier_attacks.items() if "confirm" in record.totals}
    if not found:
        return
    overclaims = joined(
        f"{count(totals['one pass'].overclaims)} of {count(totals['one pass'].questions)} questions ({name})"
        for name, totals in found.items()
        if "one pass" in totals
    )
    wrong = sum(totals["confirm"].overclaims for totals in found.values())
    asked = sum(totals["confirm"].questions for totals in found.values())
    sides.by(
        ours=wrong / max(asked, 1),
        theirs=max(totals["one pass"].overclaims / max(totals["one pass"].questions, 1) for totals in found.values()),
        more_is_better=False,
        sentence="A pass that was calibrated on images like each other, by conformal calibration as there or by "
        f"tests as here, can be fooled: a search near images found overclaims of ours in {overclaims}. Confirm is "
        f"there for that, and was wrong in {count(wrong)} of {count(asked)} answers.",
    )


def _one_radius(sides: _Sides, evidence: Evidence) -> None:
    """The calibration for one radius alone, where its gap was measured."""
    record = evidence.kept.calibration
    if record is None:
        return
    for row in record.rows:
        if not isinstance(row, PromisedRow) or _ALONE not in row.way or row.promise != "conditional":
            continue
        radius = float(row.way.split("r = ")[1].split()[0])
        at = record.radii.index(radius)
        gap, backed = record.certify[at] - row.single_pass[at], record.certify[at] - row.backed[at]
        error = _standard_error(row.single_pass[at], record.certify[at], row.backed[at], record.test.images)
        sentence = (
            f"Where only the radius {plain(radius)} is served, at α = {plain(row.alpha)}, one pass is {points(gap)} "
            f"{'below' if gap > 0 else 'above'} Certify with n = {count(record.test_monte_carlo.n)} (standard error "
            f"{decimals(100 * error, 1)}), and {points(backed)} below where no overclaim counts."
        )
        if abs(gap - RRISE_GAP) < _SETTLED * error:
            sides.unsettled.append(f"{sentence} That does not tell it from {decimals(100 * RRISE_GAP, 2)}.")
        else:
            sides.by(ours=gap, theirs=RRISE_GAP, more_is_better=False, sentence=sentence)


def _standard_error(one_pass: float, certify: float, both: float, images: int) -> float:
    """Of the difference of two shares of the same images; `both`: of those that count in each."""
    only_pass, only_certify = one_pass - both, certify - both
    return sqrt(max(only_pass + only_certify - (only_pass - only_certify) ** 2, 0.0) / images)


def _with_lipschitz(evidence: Evidence) -> Judgement | None:
    record = evidence.kept.kinds
    if record is None:
        return None
    sides = _Sides()
    proven = [row for row in record.rows if row.kind == "deterministic"]
    statistical = [row for row in record.rows if row.kind == "statistical" and row.way == "one pass"]
    for own in proven:
        _against_published(sides, record, own)
        for row in statistical:
            _against_own(sides, record, row, own)
    return sides.judgement("Lipschitz networks")


def _against_published(sides: _Sides, record: KindsRecord, own: KindRow) -> None:
    """Our network that is 1-Lipschitz against the best published ones."""
    if own.data.dataset != LIRESNET_DATASET:
        return
    at = [
        (i, published)
        for i, r in enumerate(record.radii)
        for radius, published in LIRESNET_CERTIFIED.items()
        if abs(r - radius) < 1e-9
    ]
    if not at:
        return
    first, published = at[0]
    sides.by(
        ours=own.certified[first],
        theirs=published,
        more_is_better=True,
        sentence=f"Our own network that is 1-Lipschitz, {own.model}, certifies "
        f"{joined(percent(own.certified[i]) for i, _ in at)} at 36/255, 72/255 and 108/255 with accuracy "
        f"{percent(own.accuracy)}; {LIRESNET.name} published {joined(percent(share) for _, share in at)} with "
        f"{percent(LIRESNET_ACCURACY)}, with generated images in training.",
    )


def _against_own(sides: _Sides, record: KindsRecord, row: KindRow, own: KindRow) -> None:
    """One statistical pass against our 1-Lipschitz network, on the same images."""
    sides.by(
        ours=row.accuracy,
        theirs=own.accuracy,
        more_is_better=True,
        sentence=f"One statistical pass of {row.model} is right at {percent(row.accuracy)} of "
        f"{count(row.data.images)} images, {own.model} at {percent(own.accuracy)}.",
    )
    sides.by(
        ours=row.milliseconds,
        theirs=own.milliseconds,
        more_is_better=False,
        sentence=f"One statistical pass takes {significant(row.milliseconds)} ms, {own.model} "
        f"{significant(own.milliseconds)} ms.",
    )
    at = largest_common(record)
    sides.by(
        ours=row.certified[at],
        theirs=own.certified[at],
        more_is_better=True,
        sentence=f"One statistical pass certifies {percent(row.certified[at])} at radius {plain(record.radii[at])}, "
        f"{own.model} {percent(own.certified[at])}.",
    )
    sides.worse.append(
        f"Its certificate is a rate (α = {plain(row.alpha)}) about a smoothed classifier, for images like those of "
        f"the calibration; that of {own.model} is proven for every image and about the class that is served."
    )


def _with_monte_carlo(evidence: Evidence) -> Judgement | None:
    sides = _Sides()
    if evidence.kept.kinds:
        _cheaper(sides, evidence.kept.kinds)
    for name, record in evidence.tier_attacks.items():
        one, confirm = record.totals.get("one pass"), record.totals.get("confirm")
        if one:
            sides.worse.append(
                f"{name}: one pass is a rate and proves nothing at a single image: searches near "
                f"{count(record.data.images)} images found overclaims in {count(one.overclaims)} of "
                f"{count(one.questions)} questions. Certify is wrong with probability at most α at each image, "
                "whoever made it."
            )
        if confirm:
            sides.by(
                ours=confirm.overclaims,
                theirs=1,
                more_is_better=False,
                sentence=f"{name}: confirm has the promise of Monte Carlo, and overclaimed in "
                f"{count(confirm.overclaims)} of {count(confirm.questions)} questions of the same searches.",
            )
    return sides.judgement("plain Monte Carlo")


def _cheaper(sides: _Sides, record: KindsRecord) -> None:
    """Passes and certified accuracy of one pass and of confirm, beside Certify."""
    rows = {row.way: row for row in record.rows if row.kind == "statistical"}
    certify = rows.pop("certify", None)
    if certify is None:
        return
    at = largest_common(record)
    for way, row in rows.items():
        sides.by(
            ours=row.milliseconds,
            theirs=certify.milliseconds,
            more_is_better=False,
            sentence=f"{way.capitalize()} takes {significant(row.milliseconds)} ms an image"
            + (f" ({count(row.passes)} passes)" if row.passes > 1 else "")
            + f", Certify {significant(certify.milliseconds)} ms ({count(certify.passes)} passes): "
            f"{times(certify.milliseconds / row.milliseconds)} as long.",
        )
        sides.by(
            ours=row.certified[at],
            theirs=certify.certified[at],
            more_is_better=True,
            sentence=f"{way.capitalize()} certifies {percent(row.certified[at])} at radius "
            f"{plain(record.radii[at])}, Certify {percent(certify.certified[at])} ({_of_images(row, certify)}).",
        )


def _of_images(row: KindRow, certify: KindRow) -> str:
    """On how many images two ways were measured, the fewer of which are the first of the others."""
    ours, theirs = row.data.images, certify.data.images
    return f"of the same {count(ours)} images" if ours == theirs else f"of {count(ours)} and {count(theirs)} images"
