"""What `bench switch` measured, as tables: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

from heatserve.benchmarks.records.load import Heard
from heatserve.benchmarks.records.switching import SwitchingRecord

SWITCH_HEADINGS = ("requests", "meanwhile", "answers", "p50 ms", "p99 ms", "p99.9 ms", "errors")


def switching_report(record: SwitchingRecord) -> Group:
    """What callers heard, how long the commands took, and what was kept out."""
    heard = Table(*SWITCH_HEADINGS, box=SIMPLE)
    for line in heard_meanwhile(record):
        heard.add_row(*line)
    times = Table("command", "times", "median s", "longest s", box=SIMPLE)
    for line in command_lines(record):
        times.add_row(*line)
    faults = Table("fault", "what the command said", box=SIMPLE)
    for one in record.kept_out:
        faults.add_row(one.fault, one.said)
    return Group(heard, times, faults)


def heard_meanwhile(record: SwitchingRecord) -> Iterator[list[str]]:
    """What each kind of caller heard, without switches and with them."""
    for calm, switching in zip(record.calm, record.switching, strict=True):
        asked = f"{calm.tier}, {calm.protocol}, {calm.rate:.1f}/s"
        yield [asked, "nothing", *_cells(calm)]
        yield [asked, "switches", *_cells(switching)]


def command_lines(record: SwitchingRecord) -> Iterator[list[str]]:
    """How long each kind of command took."""
    for name in dict.fromkeys(row.command for row in record.switches):
        seconds = [row.seconds for row in record.switches if row.command == name]
        yield [name, str(len(seconds)), f"{median(seconds):.1f}", f"{max(seconds):.1f}"]


def _cells(heard: Heard) -> list[str]:
    tail, errors = heard.milliseconds, sum(heard.errors.values())
    times = [f"{value:.1f}" for value in (tail.p50, tail.p99, tail.p999)] if tail else ["–"] * 3
    return [f"{heard.answers:,}", *times, str(errors)]
