"""What `bench load` and `bench tiers` measured, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from heatserve.benchmarks.records.load import Heard, LoadRecord, LoadRow, LoadTarget, ModelLoad
from heatserve.benchmarks.records.tiers import TieredModel, TierRow, TiersRecord

BOTTLENECK = 0.8
"""Cores of one process of the generator above which it, and not the server, may be what limits."""
_HEADINGS = ("images\n/s", "p50", "p90", "p99", "p99.9", "CPU\nms", "own\nMiB", "asking\ncores", "errors")
REPORT_WIDTH = 110
"""Columns of the widest table."""


def load_report(record: LoadRecord) -> Group:
    """For each model its loads, its floors, and what was reached."""
    return Group(*(part for name, found in record.shapes.items() for part in _parts(name, found)))


def _parts(name: str, found: ModelLoad) -> Iterator[RenderableType]:
    best = max(found.raw, key=lambda row: row.images_per_second)
    single = found.raw_single.milliseconds
    yield Text(
        f"{name} ({found.architecture}, {found.weights} weights), images: {found.data}; ONNX Runtime without a server: "
        f"{single.p50:.2f} ms for one image (p99 {single.p99:.2f}), {best.images_per_second:,.0f} images/s in batches "
        f"of {best.batch}",
        style="bold",
    )
    yield Text(
        "p50 to p99.9: ms of a request; CPU: the server's, for one image; own: memory of the server that its processes "
        "do not share; asking: cores of the busiest process that asked (!: it may be what limits)"
    )
    yield _table("callers who wait (closed loop)", found.closed)
    yield _table("arrivals (Poisson), latency from the intended start", found.opened)
    if found.mixes:
        yield _table(f"mixes, r = {found.radius:g}; +: at the same time", [*found.mixes.values()])
    for row in found.third_party:
        yield Text(
            f"{row.name} {row.version}, {row.callers} connections over HTTP: {row.requests_per_second:,.0f} requests a "
            f"second; ours in turn with it: {row.ours.images_per_second / row.ours.images:,.0f}"
        )
    yield from map(target_line, found.targets)


def target_line(target: LoadTarget) -> Text:
    """Something to reach: whether it was, and by how much."""
    sense = "at most" if target.at_most else "at least"
    verdict = "met" if target.met else "not met"
    return Text(f"{verdict:<8}{target.name}: {target.found:.3f}, {sense} {target.limit:.3f} is wanted")


def _table(title: str, rows: Sequence[LoadRow]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("load", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        for index, heard in enumerate(row.heard):
            label = f"+ {described(heard)}" if index else described(heard)
            table.add_row(label, *_cells(heard), *(_shared_cells(row) if index == 0 else ("", "", "")), _errors(heard))
    return table


def described(heard: Heard) -> str:
    """A kind of request and how much of it was asked, in few words."""
    much = f"{heard.rate:,.0f}/s" if heard.rate is not None else f"× {heard.callers}"
    several = f", {heard.images} images" if heard.images > 1 else ""
    return f"{heard.tier}, {heard.protocol}, {heard.input}{several} {much}"


def _cells(heard: Heard) -> list[str]:
    times = heard.milliseconds
    quantiles = (times.p50, times.p90, times.p99, times.p999) if times else ()
    return [f"{heard.images_per_second:,.0f}", *(f"{value:.2f}" for value in quantiles), *[""] * (4 - len(quantiles))]


def _shared_cells(row: LoadRow) -> tuple[str, str, str]:
    cpu = row.cpu_milliseconds
    memory = sum(use.rss_mib - use.shared_mib for use in row.server.values())
    limit = " !" if row.generator_cores > BOTTLENECK else ""
    return "–" if cpu is None else f"{cpu:.2f}", f"{memory:,.0f}", f"{row.generator_cores:.2f}{limit}"


def _errors(heard: Heard) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in heard.errors.items())


def tiers_report(record: TiersRecord) -> Group:
    """A table of tiers for each model."""
    return Group(*(_tiers_table(name, found) for name, found in record.shapes.items()))


def one_caller_cells(row: TierRow) -> tuple[str, str]:
    """p50 and p99 of one caller, in milliseconds; – where it got no answer in time."""
    times = row.single.milliseconds
    return (f"{times.p50:.2f}", f"{times.p99:.2f}") if times else ("–", "–")


def saturated_cell(row: TierRow) -> str:
    """Images a second, at best; – where no answer came within a measurement."""
    return f"{row.saturated.images_per_second:,.1f}" if row.saturated.images_per_second else "–"


def _tiers_table(name: str, found: TieredModel) -> Table:
    radii = [row.radius for row in next(iter(found.tiers.values())).at]
    table = Table(
        title=f"{name}: {found.data.images} images of {found.data.dataset}, split {found.data.split!r}",
        caption="certified: percent, the right class, answered yes at r; passes (votes included), ms of one caller and "
        f"images/s (the best number of callers) at r = {radii[0]:g}",
        box=SIMPLE,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("tier", no_wrap=True)
    for radius in radii:
        table.add_column(f"certified\nat {radius:g}", justify="right")
    for heading in ("passes\nmedian", "\nmean", "\np99", "ms\np50", "\np99", "images\n/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for tier, row in found.tiers.items():
        first = row.at[0]
        table.add_row(
            tier,
            *(f"{100 * one.certified_accuracy:.1f}" for one in row.at),
            *(f"{value:.0f}" for value in (first.passes.median, first.passes.mean, first.passes.p99)),
            *one_caller_cells(row),
            saturated_cell(row),
        )
    return table
