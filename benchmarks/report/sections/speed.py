"""How long an answer takes, and how many a server gives."""

from __future__ import annotations

from heatserve.benchmarks.records.load import LoadRecord
from heatserve.benchmarks.records.speed import LatencyRecord
from heatserve.benchmarks.report.charts.chart import Axis, Bar, BarChart, Chart, Curve, Point
from heatserve.benchmarks.report.charts.scale import round_up
from heatserve.benchmarks.report.document import Block, Figure, Section, Table
from heatserve.benchmarks.report.formats import count, decimals, plain, significant, times
from heatserve.benchmarks.report.reported import ReportedResults
from heatserve.benchmarks.report.sections.tiers import quantile

_IN_PROCESS, _SERVED = "both in process", "noisy passes in process, one pass through the server"
_WAYS = {
    "plain": "one pass, no certificate",
    "certified": "one pass, certified",
    "grpc": "through the server, gRPC",
    "http": "through the server, HTTP",
    "stochastic": "n₀ noisy passes",
}


def speed_section(reported: ReportedResults) -> Section | None:
    """Latency of a request, and load."""
    blocks: list[Block] = []
    if reported.kept.latency:
        blocks.append(latency_figure(reported.kept.latency))
    if reported.kept.load:
        blocks += [_load_figure(reported.kept.load), _targets(reported.kept.load)]
    return Section("speed", "Speed and load", blocks) if blocks else None


def latency_figure(record: LatencyRecord) -> Figure:
    """n₀ noisy passes divided by one pass, in process and through the server."""
    bars = []
    for name, found in record.shapes.items():
        for pair, what, style in (
            ("stochastic / plain", _IN_PROCESS, 1),
            ("stochastic / grpc", _SERVED, 4),
        ):
            if pair in found.ratios:
                ratio = found.ratios[pair]
                bars.append(
                    Bar(
                        f"{name}, {what}",
                        ratio.p50,
                        times(ratio.p50),
                        f"{name}, {what}: n₀ = {found.n0} noisy passes take {times(ratio.p50)} as long as one pass, "
                        f"quartiles {significant(ratio.p25)} and {significant(ratio.p75)}",
                        style,
                    )
                )
    return Figure(
        name="latency-figure",
        title="n₀ noisy passes divided by one pass",
        chart=BarChart(label="Time of n₀ noisy passes divided by that of one pass, by network", bars=bars),
        take_away=f"{_spread(record, 'stochastic / plain', _IN_PROCESS)}; "
        f"{_spread(record, 'stochastic / grpc', _SERVED)}.",
        promise=f"Medians of one image on a CPU, batch {count(record.batch)}, {record.weights} weights, all ways on as "
        "many threads; n₀ as in the paper.",
        numbers=Table(
            caption="Milliseconds for one image",
            headings=["network", "way", "n₀", "p50", "p90", "p99"],
            rows=[
                [
                    name,
                    _WAYS.get(way, way),
                    count(found.n0) if way == "stochastic" else "–",
                    significant(spread.p50),
                    significant(spread.p90),
                    significant(spread.p99),
                ]
                for name, found in record.shapes.items()
                for way, spread in found.milliseconds.items()
            ],
            sources=["latency.json"],
            words=2,
        ),
    )


def _spread(record: LatencyRecord, pair: str, what: str) -> str:
    """The least and the largest ratio of a pair of ways."""
    found = {name: each.ratios[pair].p50 for name, each in record.shapes.items() if pair in each.ratios}
    if not found:
        return f"{what}: not measured"
    least, most = min(found, key=lambda name: found[name]), max(found, key=lambda name: found[name])
    return f"{what}: {times(found[least])} ({least}) to {times(found[most])} ({most})"


def _load_figure(record: LoadRecord) -> Figure:
    lines = []
    rows = []
    for style, (name, model) in enumerate(record.shapes.items(), start=1):
        heard = [
            one
            for row in model.closed
            for one in row.heard
            if (one.tier, one.protocol, one.input, one.images) == ("one pass", "grpc", model.input, 1)
        ]
        best = max((raw.images_per_second for raw in model.raw), default=0.0)
        lines.append(
            Curve(
                name=name,
                style=style,
                points=[
                    Point(
                        float(one.callers or 0),
                        one.images_per_second,
                        f"{name}: {count(one.images_per_second)} images/s with {count(one.callers)} callers, p99 "
                        f"{decimals(quantile(one, 'p99'), 1)} ms",
                    )
                    for one in heard
                ],
            )
        )
        rows += [
            [
                name,
                count(one.callers),
                count(one.images_per_second),
                *(decimals(quantile(one, at), 2) for at in ("p50", "p99")),
                decimals(one.images_per_second / best if best else None, 2),
            ]
            for one in heard
        ]
    most = max((point.y for line in lines for point in line.points), default=1.0)
    callers = max((point.x for line in lines for point in line.points), default=2.0)
    return Figure(
        name="load-figure",
        title="Images a second over callers",
        chart=Chart(
            label="Images a second of one pass over gRPC, over the number of callers, by model",
            x=Axis(label="callers that wait for their answer", low=1, high=max(callers, 2), log=True),
            y=Axis(label="images a second", low=0, high=round_up(most)),
            lines=lines,
        ),
        take_away="More callers at a time are answered in batches, until the cores are busy.",
        promise=f"One image a request, gRPC, windows of {plain(record.seconds)} s; callers share the server’s cores.",
        numbers=Table(
            caption="One pass over gRPC, one image a request",
            headings=["model", "callers", "images/s", "ms: p50", "p99", "÷ best of ONNX Runtime"],
            rows=rows,
            sources=["load.json"],
        ),
    )


def _targets(record: LoadRecord) -> Table:
    return Table(
        caption="What load was aimed at",
        headings=["model", "target", "found", "wanted", "verdict"],
        rows=[
            [
                name,
                target.name,
                decimals(target.found),
                f"{'≤' if target.at_most else '≥'} {decimals(target.limit)}",
                "met" if target.met else "not met",
            ]
            for name, model in record.shapes.items()
            for target in model.targets
        ],
        sources=["load.json"],
        words=2,
    )
