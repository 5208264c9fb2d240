"""What a run of the conformance suite found, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table
from rich.text import Text

from heatserve.serving.conformance.findings import Findings


def conformance_table(findings: Mapping[str, Findings], absent: Mapping[str, str]) -> Group:
    """One row per engine, what was broken first, and which engines are not here."""
    table = Table(
        caption="each case: one promise for one image; off: of a probability; below: of a nominal radius, in σ",
        caption_justify="left",
    )
    for heading in ("engine", "cases", "broken", "off", "below"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    notes: list[Text] = []
    for name, found in findings.items():
        counts = (f"{found.cases:,}", f"{found.failures:,}")
        largest = (f"{found.probability_off:.1e}", f"{found.nominal_below:.1e}")
        table.add_row(name, *counts, *largest, style=None if found.passed else "red")
        notes += [Text(f"{name}: {found.ended_by}", style="red")] if found.ended_by else []
        notes += [Text(f"{name}: some probes were skipped: {found.skipped}", style="yellow")] if found.skipped else []
        for promise, tally in found.promises.items():
            if tally.failures:
                notes.append(Text(f"{name}: {promise}: {tally.failures} of {tally.cases} broken, first {tally.first}"))
    notes += [Text(f"{name} could not be run here. {reason}", style="yellow") for name, reason in absent.items()]
    return Group(table, *notes)
