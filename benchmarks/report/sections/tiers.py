"""Tiers of answer: what each one proves over the radius, and what it costs."""

from __future__ import annotations

from heatserve.benchmarks.paper.summary import BAND_CONFIDENCE
from heatserve.benchmarks.records.confirming import ConfirmRecord
from heatserve.benchmarks.records.load import Heard
from heatserve.benchmarks.records.tiers import TieredModel, TiersRecord
from heatserve.benchmarks.report.charts.chart import Axis, Chart, Curve, Point
from heatserve.benchmarks.report.charts.scale import round_up
from heatserve.benchmarks.report.curves import share_line
from heatserve.benchmarks.report.document import Beside, Figure, Prose, Section, Table
from heatserve.benchmarks.report.formats import count, decimals, in_percent, percentage, plain, times
from heatserve.benchmarks.report.reported import ReportedResults

TIER_STYLES = {"one pass": 1, "cascade": 4, "confirm": 3, "certify": 0}
"""Of the curves of the tiers, on the whole page."""


def tiers_section(reported: ReportedResults) -> Section | None:
    """Accuracy over radius by tier, and accuracy over cost."""
    record = reported.kept.tiers
    if record is None or not record.shapes:
        return None
    return Section(
        "tiers",
        "Tiers of answer, and their cost",
        [
            Prose(
                "The same server answers in four ways. One pass carries the promise of the card, a rate. Confirm and "
                "the cascade prove one radius in tens to hundreds of noisy passes, Certify the largest one in n₀ + n: "
                "each of these three is wrong with probability at most α for each image, whatever the image is."
            ),
            *(Beside([_over_radius(name, found), _over_cost(name, found)]) for name, found in record.shapes.items()),
            _table(record),
            *([_confirmed(reported.kept.confirm)] if reported.kept.confirm else []),
        ],
    )


def _over_radius(name: str, found: TieredModel) -> Figure:
    radii = [row.radius for row in next(iter(found.tiers.values())).at]
    lines = [
        share_line(
            tier,
            [row.radius for row in each.at],
            [row.certified_accuracy for row in each.at],
            style=TIER_STYLES.get(tier, 5),
            images=found.data.images,
        )
        for tier, each in found.tiers.items()
    ]
    best = max(found.tiers, key=lambda tier: found.tiers[tier].at[0].certified_accuracy)
    return Figure(
        name=f"tiers-radius-{name}",
        title=f"{name}: certified accuracy by tier",
        chart=Chart(
            label=f"Certified accuracy of {name} over radius, by tier",
            x=Axis(label="L2 radius, pixels in [0,1]", low=0, high=max(radii)),
            y=Axis(label="certified accuracy", low=0, high=1, percent=True),
            lines=lines,
        ),
        take_away=(
            f"At radius {plain(radii[0])}, {best} certifies most: "
            f"{percentage(found.tiers[best].at[0].certified_accuracy)}; one pass "
            f"{percentage(found.tiers['one pass'].at[0].certified_accuracy)}."
            if "one pass" in found.tiers
            else f"At radius {plain(radii[0])}, {best} certifies most."
        ),
        promise=_promise(found),
        numbers=Table(
            caption=f"{name}: certified accuracy by tier, in percent",
            headings=["tier", *(f"r = {plain(radius)}" for radius in radii)],
            rows=[
                [tier, *(in_percent(row.certified_accuracy) for row in each.at)] for tier, each in found.tiers.items()
            ],
            sources=["tiers.json"],
        ),
    )


def _over_cost(name: str, found: TieredModel) -> Figure:
    radii = [row.radius for row in next(iter(found.tiers.values())).at]
    lines = [
        Curve(
            name=f"r = {plain(radius)}",
            style=style,
            points=[
                Point(
                    each.at[index].passes.mean,
                    each.at[index].certified_accuracy,
                    f"{tier}: {percentage(each.at[index].certified_accuracy)} at r = {plain(radius)}, "
                    f"{decimals(each.at[index].passes.mean, 1)} passes an image on average",
                )
                for tier, each in sorted(found.tiers.items(), key=lambda item: item[1].at[index].passes.mean)
            ],
        )
        for style, (index, radius) in enumerate(enumerate(radii), start=1)
    ]
    passes = [point.x for line in lines for point in line.points]
    first = {tier: each.at[0] for tier, each in found.tiers.items()}
    said = (
        f"At r = {plain(radii[0])}, confirm keeps {percentage(first['confirm'].certified_accuracy)} for "
        f"{decimals(first['confirm'].passes.mean, 0)} passes an image, Certify "
        f"{percentage(first['certify'].certified_accuracy)} for {count(first['certify'].passes.mean)}: "
        f"{times(first['certify'].passes.mean / first['confirm'].passes.mean)} as many."
        if {"confirm", "certify"} <= set(first)
        else "More passes certify more."
    )
    return Figure(
        name=f"tiers-cost-{name}",
        title=f"{name}: what a proof costs",
        chart=Chart(
            label=f"Certified accuracy of {name} over noisy passes an image, by radius",
            x=Axis(label="passes an image, mean", low=1, high=10 * round_up(max(passes) / 10), log=True),
            y=Axis(label="certified accuracy", low=0, high=1, percent=True),
            lines=lines,
        ),
        take_away=said,
        promise=_promise(found),
        numbers=Table(
            caption=f"{name}: passes an image",
            headings=[
                "tier",
                *(f"r = {plain(radius)}: {what}" for radius in radii for what in ("mean", "median", "p99")),
            ],
            rows=[
                [
                    tier,
                    *(
                        cell
                        for row in each.at
                        for cell in (decimals(row.passes.mean, 1), count(row.passes.median), count(row.passes.p99))
                    ),
                ]
                for tier, each in found.tiers.items()
            ],
            sources=["tiers.json"],
        ),
    )


def quantile(heard: Heard, name: str) -> float | None:
    """Of the latency in milliseconds; None: nothing was answered."""
    return None if heard.milliseconds is None else float(getattr(heard.milliseconds, name))


def _promise(found: TieredModel) -> str:
    alphas = {row.alpha for row in found.tiers.values() if row.alpha is not None}
    return (
        f"{count(found.data.images)} images of split “{found.data.split}” of {found.data.dataset}, σ = "
        f"{plain(found.sigma)}; α = {', '.join(plain(alpha) for alpha in sorted(alphas))} for each image of the tiers "
        f"with votes. Bands: exact, confidence {BAND_CONFIDENCE:g}."
    )


def _confirmed(record: ConfirmRecord) -> Table:
    """What a confirmation costs by the rule that is served, over radius and α."""
    served = [*record.rules][-1]
    return Table(
        caption="What a confirmation costs, over radius and α",
        headings=["model", "images", "radius", "α", "confirmed", "of the right class", "votes: median", "mean", "p99"],
        rows=[
            [
                name,
                count(model.data.images),
                plain(row.radius),
                plain(row.alpha),
                count(row.confirmed),
                count(row.right),
                count(row.votes.median),
                decimals(row.votes.mean, 1),
                count(row.votes.p99),
            ]
            for name, model in record.models.items()
            for row in model.rows
            if row.rule == served
        ],
        sources=["confirm.json"],
        note=f"At most {count(record.n)} votes an image; each answer is wrong with probability at most α.",
    )


def _table(record: TiersRecord) -> Table:
    return Table(
        caption="Each tier over gRPC, for the first radius",
        headings=["model", "tier", "α", "radius", "ms: p50, one caller", "p99", "images/s, most callers", "callers"],
        rows=[
            [
                name,
                tier,
                "the card’s" if row.alpha is None else plain(row.alpha),
                plain(row.at[0].radius),
                decimals(quantile(row.single, "p50"), 2),
                decimals(quantile(row.single, "p99"), 2),
                decimals(row.saturated.images_per_second or None, 1),
                count(row.saturated.callers),
            ]
            for name, found in record.shapes.items()
            for tier, row in found.tiers.items()
        ],
        sources=["tiers.json"],
        words=2,
        note=f"Windows of {plain(record.seconds)} s. A dash: no request of that tier ended within the window.",
    )
