"""Tables 1 to 5 of the paper on each data set that was measured, with what the paper printed beside them."""

from __future__ import annotations

from collections.abc import Mapping

from heatserve.benchmarks.paper.orders import orders_table
from heatserve.benchmarks.paper.published import TABLE_2
from heatserve.benchmarks.paper.speed_lines import column_lines, column_title, engine_lines
from heatserve.benchmarks.paper.tables import NOT_RUN, PaperTable, all_tables
from heatserve.benchmarks.records.table2 import ClassifierSpeed
from heatserve.benchmarks.report.charts.chart import Bar, BarChart
from heatserve.benchmarks.report.document import NO_GPU, Block, Figure, Prose, Section, Table
from heatserve.benchmarks.report.formats import DASH, joined, significant, times
from heatserve.benchmarks.report.published import published_seconds
from heatserve.benchmarks.report.reported import ReportedResults

_NO_NUMBERS = ("nan", "inf", "-inf")
_GPU = "GPU"
_STYLES = {"torch": 0, "onnxruntime": 1, "grpc": 4}
_ENGINES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "grpc": "through the server"}


def tables_section(reported: ReportedResults) -> Section | None:
    """All tables of each data set and σ; then Table 2, which is about no data."""
    blocks: list[Block] = []
    for results in reported.paper:
        for sigma in results.sigmas:
            view = results.view(sigma)
            sources = [results.file("systems"), *([results.file("attacks")] if results.attacks else [])]
            blocks += [_shown(table, sources) for table in (*all_tables(view), orders_table(view))]
    blocks += _table_2(reported)
    if not blocks:
        return None
    start = Prose(
        "Rows are ours unless they say “paper”, whose numbers are printed ones: of another network, trained longer, "
        "on another machine. Distances and radii are L2, pixels in [0,1]."
    )
    return Section("tables", "The paper’s tables, ours beside them", [start, *blocks])


def _shown(table: PaperTable, sources: list[str]) -> Table:
    """A table as it is printed elsewhere; what is not a number is a dash."""
    return Table(
        caption=table.title,
        headings=[heading.replace("L-bound", "L\N{NON-BREAKING HYPHEN}bound") for heading in table.headings],
        rows=[[DASH if cell in _NO_NUMBERS else cell for cell in line] for line in table.lines],
        sources=sources,
        note=table.note.replace("`", ""),
    )


def _table_2(reported: ReportedResults) -> list[Block]:
    """The ratios as bars, then each column of the paper's table."""
    speeds = {results.file("speed"): results.speed for results in reported.paper if results.speed}
    if not speeds:
        return []
    on_cpu = {source: record for source, record in speeds.items() if record.device == "cpu"}
    gpu = next((record for record in speeds.values() if record.device != "cpu"), None)
    shapes = {name: found for record in on_cpu.values() for name, found in record.shapes.items()}
    rows = [
        _row(column_title(column), line, has_gpu=gpu is not None)
        for column in TABLE_2
        for line in column_lines(column, shapes, gpu)
    ]
    others = {name: found for name, found in shapes.items() if published_seconds(name) is None}
    rows += [
        _row(f"{name}, CPU, n₀ = {found.n0}", line, has_gpu=gpu is not None)
        for name, found in others.items()
        for line in engine_lines(name, found)
    ]
    table = Table(
        caption="Table 2: seconds for one classification",
        headings=["column", "engine", "network", "one pass", "n₀ noisy passes", "ratio", "interval of 95 %"],
        rows=rows,
        sources=[*speeds],
        words=3,
        note="The paper has no column for the digits.",
    )
    return [_ratios(shapes, [*on_cpu]), table]


def _row(title: str, line: list[str], *, has_gpu: bool) -> list[str]:
    """A line of the table; one that was not run says why in each of its cells."""
    engine, network, *numbers = (cell.strip("`") for cell in line)
    if engine != NOT_RUN:
        return [title, engine, network or DASH, *(cell or DASH for cell in numbers)]
    why = NO_GPU if _GPU in title and not has_gpu else NOT_RUN
    return [title, DASH, network, *[why] * len(numbers)]


def _ratios(shapes: Mapping[str, ClassifierSpeed], sources: list[str]) -> Figure:
    bars = []
    for name, found in shapes.items():
        for engine, pair in found.engines.items():
            ratio, what = pair.ratio, _ENGINES.get(engine, engine)
            shown = f"{times(ratio.median)} ({significant(ratio.low)} to {significant(ratio.high)})"
            says = f"{name}, {what}: n₀ = {found.n0} noisy passes take {shown} as long as one pass"
            bars.append(Bar(f"{name}, {what}", ratio.median, shown, says, _STYLES.get(engine, 6)))
        if published := published_seconds(name):
            printed = times(published.ratio)
            bars.append(Bar("the paper, its CPU", published.ratio, printed, f"the paper, Table 2: {printed}", 9))
    return Figure(
        name="table-2",
        title="Table 2: n₀ noisy passes divided by one pass, on a CPU",
        chart=BarChart(label="Time of n₀ noisy passes divided by that of one pass, by network and engine", bars=bars),
        take_away=f"In PyTorch, as the paper measured it: {joined(_beside(shapes))}.",
        promise=(
            "One image, random weights, medians over rounds in which all ways take turns; in brackets an interval of "
            "the median, from order statistics, confidence at least 0.95."
        ),
        numbers=Table(
            caption="The ratios of Table 2",
            headings=["network and engine", "ratio"],
            rows=[[bar.name, bar.shown] for bar in bars],
            sources=sources,
        ),
    )


def _beside(shapes: Mapping[str, ClassifierSpeed]) -> list[str]:
    """The ratio of each network in PyTorch, with the paper's where it has one."""
    found = []
    for name, speed in shapes.items():
        if "torch" in speed.engines:
            published = published_seconds(name)
            printed = f" (the paper {times(published.ratio)})" if published else ""
            found.append(f"{name} {times(speed.engines['torch'].ratio.median)}{printed}")
    return found
