"""What `bench soak` measured, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from heatserve.benchmarks.load.report import described, target_line
from heatserve.benchmarks.records.soak import SoakRecord


def soak_report(record: SoakRecord) -> Group:
    """The load, what the processes held, the faults, and what was to be reached."""
    return Group(*_parts(record))


def soak_lines(record: SoakRecord) -> list[list[str]]:
    """Each kind of request: its name, answers, p50, p99, p99.9 in milliseconds, and errors."""
    lines = []
    for heard in record.heard:
        times = heard.milliseconds
        quantiles = [f"{value:.2f}" for value in (times.p50, times.p99, times.p999)] if times else ["–"] * 3
        errors = ", ".join(f"{count:,} {kind}" for kind, count in heard.errors.items()) or "none"
        lines.append([described(heard), f"{heard.answers:,}", *quantiles, errors])
    return lines


def held_lines(record: SoakRecord) -> list[list[str]]:
    """Each kind of process: its name, cores, MiB and descriptors before and after the load, and growth in percent."""
    before, after = record.idle
    return [
        [
            kind,
            f"{record.cores[kind]:.2f}" if kind in record.cores else "–",
            f"{before.rss_mib[kind]:,.1f}",
            f"{after.rss_mib.get(kind, 0.0):,.1f}",
            f"{100 * record.growth[kind]:+.2f}" if kind in record.growth else "–",
            str(before.files[kind]),
            str(after.files.get(kind, 0)),
        ]
        for kind in before.rss_mib
    ]


def fault_lines(record: SoakRecord) -> list[list[str]]:
    """Each fault: what was done, seconds until the next good answer, each time, and requests that failed meanwhile."""
    return [[row.what, ", ".join(f"{one:.1f}" for one in row.seconds), str(row.failed)] for row in record.faults]


def _parts(record: SoakRecord) -> Iterator[RenderableType]:
    yield Text(f"{record.model}: {record.minutes:g} minutes at {100 * record.share:g} % load", style="bold")
    yield _table(("requests", "answers", "p50, ms", "p99", "p99.9", "errors"), soak_lines(record))
    headings = ("process", "cores", "MiB before", "after", "grows by, %", "descriptors before", "after")
    yield _table(headings, held_lines(record))
    if record.faults:
        yield _table(("fault", "seconds until the next good answer", "requests failed"), fault_lines(record))
    yield from map(target_line, record.targets)


def _table(headings: tuple[str, ...], lines: list[list[str]]) -> Table:
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    for cells in lines:
        table.add_row(*cells)
    return table
