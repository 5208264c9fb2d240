"""One pass and confirm, and plain Monte Carlo."""

from __future__ import annotations

from heatserve.benchmarks.records.kinds import KindRow, KindsRecord
from heatserve.benchmarks.report.comparisons.sides import Sides
from heatserve.benchmarks.report.document import Judgement
from heatserve.benchmarks.report.formats import count, percentage, plain, significant, times
from heatserve.benchmarks.report.reported import ReportedResults
from heatserve.benchmarks.report.sections.kinds import largest_common


def with_monte_carlo(reported: ReportedResults) -> Judgement | None:
    """Cost, certified accuracy, and what an adversary makes of each."""
    sides = Sides()
    sides.used(
        *(["kinds.json"] if reported.kept.kinds else []), *(f"attack-tiers-{n}.json" for n in reported.tier_attacks)
    )
    if reported.kept.kinds:
        _cheaper(sides, reported.kept.kinds)
    for name, record in reported.tier_attacks.items():
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
                f"{count(confirm.overclaims)} of {count(record.proofs('confirm'))} proofs, to "
                f"{count(confirm.questions)} questions of the same searches.",
            )
    return sides.judgement("plain Monte Carlo")


def _cheaper(sides: Sides, record: KindsRecord) -> None:
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
            sentence=f"{way.capitalize()} certifies {percentage(row.certified[at])} at radius "
            f"{plain(record.radii[at])}, Certify {percentage(certify.certified[at])} ({_of_images(row, certify)}).",
        )


def _of_images(row: KindRow, certify: KindRow) -> str:
    """On how many images two ways were measured, the fewer of which are the first of the others."""
    ours, theirs = row.data.images, certify.data.images
    return f"of the same {count(ours)} images" if ours == theirs else f"of {count(ours)} and {count(theirs)} images"
