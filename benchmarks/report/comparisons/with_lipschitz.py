"""This system and networks that are 1-Lipschitz by construction: others’, and our own."""

from __future__ import annotations

from heatserve.benchmarks.records.kinds import KindRow, KindsRecord
from heatserve.benchmarks.report.comparisons.sides import Sides
from heatserve.benchmarks.report.document import Judgement
from heatserve.benchmarks.report.formats import count, joined, percentage, plain, significant
from heatserve.benchmarks.report.published import (
    LIRESNET,
    LIRESNET_ACCURACY,
    LIRESNET_CERTIFIED,
    LIRESNET_DATASET,
)
from heatserve.benchmarks.report.reported import ReportedResults
from heatserve.benchmarks.report.sections.kinds import largest_common


def with_lipschitz(reported: ReportedResults) -> Judgement | None:
    """Our 1-Lipschitz network beside the best published one, and our statistical pass beside ours."""
    record = reported.kept.kinds
    if record is None:
        return None
    sides = Sides()
    sides.used("kinds.json")
    proven = [row for row in record.rows if row.kind == "deterministic"]
    statistical = [row for row in record.rows if row.kind == "statistical" and row.way == "one pass"]
    for own in proven:
        _against_published(sides, record, own)
        for row in statistical:
            _against_own(sides, record, row, own)
    return sides.judgement("Lipschitz networks")


def _against_published(sides: Sides, record: KindsRecord, own: KindRow) -> None:
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
        f"{joined(percentage(own.certified[i]) for i, _ in at)} at 36/255, 72/255 and 108/255 with accuracy "
        f"{percentage(own.accuracy)}; {LIRESNET.name} published {joined(percentage(share) for _, share in at)} with "
        f"{percentage(LIRESNET_ACCURACY)}, with generated images in training.",
    )


def _against_own(sides: Sides, record: KindsRecord, row: KindRow, own: KindRow) -> None:
    """One statistical pass against our 1-Lipschitz network, on the same images."""
    sides.by(
        ours=row.accuracy,
        theirs=own.accuracy,
        more_is_better=True,
        sentence=f"One statistical pass of {row.model} is right at {percentage(row.accuracy)} of "
        f"{count(row.data.images)} images, {own.model} at {percentage(own.accuracy)}.",
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
        sentence=f"One statistical pass certifies {percentage(row.certified[at])} at radius "
        f"{plain(record.radii[at])}, {own.model} {percentage(own.certified[at])}.",
    )
    sides.worse.append(
        f"Its certificate is a rate (α = {plain(row.alpha)}) about a smoothed classifier, for images like those of "
        f"the calibration; that of {own.model} is proven for every image and about the class that is served."
    )
