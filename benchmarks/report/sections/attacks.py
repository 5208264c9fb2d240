"""What an adversary finds: overclaims of one pass, and what the tiers with votes make of them."""

from __future__ import annotations

from heatserve.benchmarks.records.attack import AttackRecord
from heatserve.benchmarks.records.attack_tiers import TierAttackRecord
from heatserve.benchmarks.report.charts.chart import Axis, Bar, BarChart, Chart
from heatserve.benchmarks.report.curves import share_line
from heatserve.benchmarks.report.document import Beside, Block, Figure, Prose, Section, Table
from heatserve.benchmarks.report.formats import count, decimals, joined, percentage, plain
from heatserve.benchmarks.report.reported import ReportedResults
from heatserve.benchmarks.report.sections.tiers import TIER_STYLES


def attacks_section(reported: ReportedResults) -> Section | None:
    """Overclaims that searches found, by tier and by distance; changed classes within served and proven radii."""
    blocks: list[Block] = [
        Prose(
            "The promise of one pass is about images like those of the calibration; an adversary makes others. A "
            "search near real images that knows both graphs raises the served radius above what the smoothed "
            "classifier has there. Each such input is an overclaim of one pass; the tiers with votes draw fresh "
            "noise and are asked about the same."
        ),
    ]
    tiers = [tier_figure(record, f"attack-tiers-{name}.json") for name, record in reported.tier_attacks.items()]
    blocks += [Beside(figures) for figures in (tiers, _spoofing(reported)) if figures]
    tables = [_distances(reported), _within(reported)] if reported.attacks else []
    return Section("attacks", "Under attack", [*blocks, *tables]) if len(blocks) > 1 or tables else None


def tier_chart(record: TierAttackRecord) -> BarChart:
    """Overclaims in all questions of all searches, by tier."""
    return BarChart(
        label=f"Overclaims of {record.model} under attack, by tier: "
        + ", ".join(f"{tier} {total.overclaims} of {total.questions}" for tier, total in record.totals.items()),
        bars=[
            Bar(
                tier,
                total.overclaims / max(total.questions, 1),
                f"{count(total.overclaims)} of {count(total.questions)}",
                f"{tier}: {count(total.overclaims)} overclaims in {count(total.questions)} questions, at most "
                f"{percentage(total.upper_bound, 2)}",
                TIER_STYLES.get(tier, 5),
            )
            for tier, total in record.totals.items()
        ],
    )


def tier_figure(record: TierAttackRecord, source: str) -> Figure:
    """The bars, with their table."""
    votes = [total for tier, total in record.totals.items() if tier != "one pass"]
    asked, found = sum(total.questions for total in votes), sum(total.overclaims for total in votes)
    return Figure(
        name=f"attack-tiers-{record.model}",
        title=f"{record.model}: overclaims that a search finds",
        chart=tier_chart(record),
        take_away=(
            f"The tiers with votes overclaimed {count(found)} times in {count(asked)} questions at the inputs that "
            "the searches ended with."
        ),
        promise=(
            f"Near {count(record.data.images)} images of split “{record.data.split}” of {record.data.dataset}, within "
            f"L2 distance {joined(plain(epsilon) for epsilon in record.settings.epsilons)}, for radii "
            f"{joined(plain(radius) for radius in sorted({row.radius for row in record.rows}))}; α = "
            f"{plain(record.settings.alpha)} of the tiers with votes, n = {count(record.settings.n)}. Bounds: exact, "
            f"confidence {plain(record.settings.confidence)}, as if questions were independent; those near one image "
            "are not."
        ),
        numbers=Table(
            caption=f"{record.model}: questions at attacked inputs",
            headings=["tier", "questions", "overclaims", "share, at most", "images with one", "broken proofs"],
            rows=[
                [
                    tier,
                    count(total.questions),
                    count(total.overclaims),
                    percentage(total.upper_bound, 2),
                    count(total.images),
                    count(total.broken),
                ]
                for tier, total in record.totals.items()
            ],
            sources=[source],
            note="A broken proof: another class, nearer to a clean image than the radius that is proven there.",
        ),
    )


def _spoofing(reported: ReportedResults) -> list[Figure]:
    return [_spoofed(name, record) for name, record in reported.attacks.items() if record.spoofing]


def _spoofed(name: str, record: AttackRecord) -> Figure:
    found = record.spoofing or ()
    epsilons = [row.epsilon for row in found]
    shares = [row.overclaims / row.positive if row.positive else None for row in found]
    line = share_line("overclaims of the positive radii", epsilons, shares, style=5, what="distance of the search")
    first, last = found[0], found[-1]
    return Figure(
        name=f"spoofed-{name}",
        title=f"{name}: overclaims over the distance of the search",
        chart=Chart(
            label=f"Share of positive radii of {name} that overclaim, over the L2 distance of the search",
            x=Axis(label="L2 distance of the search", low=0, high=max(epsilons) or 1),
            y=Axis(label="overclaims", low=0, high=1, percent=True),
            lines=[line],
        ),
        take_away=(
            f"Of the positive radii of one pass {count(first.overclaims)} of {count(first.positive)} overclaim at "
            f"distance {plain(first.epsilon)}, {count(last.overclaims)} of {count(last.positive)} within "
            f"{plain(last.epsilon)}: a radius of one pass is no protection against somebody who makes the image."
        ),
        promise=(
            f"{count(record.data.images)} images of split “{record.data.split}” of {record.data.dataset}; judged by "
            f"{record.monte_carlo.described}. Bounds: exact, confidence {plain(record.settings.confidence)}."
        ),
        numbers=Table(
            caption=f"{name}: overclaims at the worst inputs found",
            headings=["ε", "radius > 0", "overclaims", "rate, at most", "median served", "median proven"],
            rows=[
                [
                    plain(row.epsilon),
                    f"{count(row.positive)} of {count(row.images)}",
                    count(row.overclaims),
                    percentage(row.upper_bound),
                    decimals(row.median_served),
                    decimals(row.median_proven),
                ]
                for row in found
            ],
            sources=[f"attack-{name}.json"],
        ),
    )


def _distances(reported: ReportedResults) -> Table:
    return Table(
        caption="How far PGD and DDN have to go, on the models that are served",
        headings=["model", "system", "attack", "images", "changed", "median", "mean", "misclassified: median", "mean"],
        rows=[
            [
                name,
                row.system,
                row.attack,
                count(len(row.distances)),
                percentage(row.changed, 0),
                decimals(row.median),
                decimals(row.mean),
                decimals(row.median_misclassified),
                decimals(row.mean_misclassified),
            ]
            for name, record in reported.attacks.items()
            for row in record.distances
        ],
        sources=[f"attack-{name}.json" for name in reported.attacks],
        words=3,
        note="L2 distance to another answer, an image without success counts as the limit; misclassified: to a "
        "wrong answer, 0 where it is wrong to begin with. A dash: most images have none within the limit.",
    )


def _within(reported: ReportedResults) -> Table:
    return Table(
        caption="Classes that PGD and DDN changed within a radius",
        headings=[
            "model",
            "one pass, within its served radius",
            "smoothed classifier, within the proven radius",
        ],
        rows=[
            [
                name,
                f"{count(record.within_served.changed)} of {count(record.within_served.positive)}",
                f"{count(record.within_proven.violations)} of {count(record.within_proven.tested)}",
            ]
            for name, record in reported.attacks.items()
        ],
        sources=[f"attack-{name}.json" for name in reported.attacks],
        note="The theorems exclude the second, not the first: a served radius is about the smoothed classifier.",
    )
