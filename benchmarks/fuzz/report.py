"""What a fuzzed server did, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from heatserve.benchmarks.records.fuzz import FuzzRecord


def fuzz_report(record: FuzzRecord) -> Group:
    """Requests, cancellations, hostile connections, processes, and what should not have been."""
    return Group(*_parts(record))


def _parts(record: FuzzRecord) -> Iterator[RenderableType]:
    requests = _table("requests", "sent", "answered", "refused", "closed", "silent", "positive", "s")
    for name, row in record.mutations.items():
        numbers = (row.sent, row.answered, row.refused, row.closed, row.silent, row.positive)
        requests.add_row(f"mutated, {name}", *(f"{number:,}" for number in numbers), f"{row.seconds:.0f}")
    for name, given_up in record.cancellations.items():
        requests.add_row(
            f"cancelled, {name}",
            f"{given_up.sent:,}",
            f"{given_up.answered:,}",
            "",
            "",
            "",
            "",
            f"{given_up.seconds:.0f}",
        )
    requests.add_row("valid, between them", f"{record.valid:,}", f"{record.valid:,}", "", "", "", "", "")
    yield requests
    cases = _table("hostile connections", "s", "what became of them")
    for case in record.cases:
        cases.add_row(case.name, f"{case.seconds:.1f}", case.outcome)
    yield cases
    if record.processes:
        processes = _table("processes", "number", "MB before", "after", "files before", "after")
        for use in record.processes:
            memory = (f"{use.megabytes_before:.0f}", f"{use.megabytes_after:.0f}")
            processes.add_row(use.role, str(use.processes), *memory, str(use.files_before), str(use.files_after))
        yield processes
    if not record.faults:
        yield Text("\nnothing that should not have been", style="bold green")
    for kind, number in record.faults.items():
        yield Text(f"{number:>7,} times: {kind}", style="bold red")
    for example in record.examples:
        yield Text(f"        {example}", style="red")


def _table(name: str, *columns: str) -> Table:
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    table.add_column(name)
    for column in columns:
        table.add_column(column, justify="left" if column.startswith("what") else "right")
    return table
