"""The parts of `heatserve paper` that read no image: Table 2, and Figures 3 and 4. Imports stay inside functions."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from heatserve.commands.options import tell_page

if TYPE_CHECKING:
    from rich.console import RenderableType

SPEED_PART, LINE_PART = "speed", "line"
PARTS_WITHOUT_DATA = (SPEED_PART, LINE_PART)


def measure_without_data(
    parts: Collection[str] | None, dataset: str, results: Path, *, seed: int
) -> tuple[dict[str, object], list[RenderableType]]:
    """Measure Table 2 of a data set and solve Figures 3 and 4; what is measured already is not measured again.

    Args:
        parts: which; None: all, but Table 2 only where it has a column for the data set that was not measured yet: one
            that was, on an idle machine perhaps, is replaced only where it is asked for.
        dataset: its name.
        results: folder of the results of the data set; Figures 3 and 4 go beside it.
        seed: decides all random numbers.

    Returns:
        The records by part, and their tables.

    Raises:
        HeatserveError: Table 2 was asked for, and has no column for the data set.
    """
    from heatserve.benchmarks.paper.speed import SPEED_CLASSIFIERS, SPEED_FILE, is_measured, measure_speed
    from heatserve.benchmarks.paper.speed_lines import speed_table
    from heatserve.export.calibration.report import progress_bar

    records, tables = dict[str, object](), list["RenderableType"]()
    out = results / SPEED_FILE
    if SPEED_PART in parts if parts else dataset in SPEED_CLASSIFIERS and not is_measured(dataset, out):
        record = measure_speed(dataset, out=out, seed=seed, progress=progress_bar)
        records[SPEED_PART] = record
        tables.append(speed_table(record))
        tell_page(out, "speed")
    if not parts or LINE_PART in parts:
        records[LINE_PART], table = _line(results.parent, seed=seed)
        tables.append(table)
    return records, tables


def _line(folder: Path, *, seed: int) -> tuple[object, RenderableType]:
    from heatserve.benchmarks.paper.line_figure import LINE_FILE, LINE_PICTURE, PLANE_PICTURE, line_table, write_line

    record = write_line(folder, seed=seed)
    for name in (LINE_PICTURE, PLANE_PICTURE):
        typer.echo(f"wrote   {folder / name}", err=True)
    tell_page(folder / LINE_FILE, "line")
    return record, line_table(record)
