"""What the pages of Table 2 and of Figures 3 and 4 show, and the cells that wait for a GPU."""

from __future__ import annotations

from heatserve.benchmarks.pages.kept import KeptResults
from heatserve.benchmarks.paper.published import TABLE_2
from heatserve.benchmarks.paper.speed_lines import (
    ENGINE_NAMES,
    IN_PROCESS,
    column_lines,
    column_title,
    engine_lines,
    reached_ratios,
)
from heatserve.benchmarks.paper.tables import NOT_RUN
from heatserve.benchmarks.records.gpu import StepCell

RATIO_REACH = 4
"""How many times the paper's ratio each in process should be at least."""


def speed_page(kept: KeptResults) -> dict[str, object] | None:
    """Table 2 beside the paper's, and all that a GPU measured; None: nothing is measured on a CPU yet."""
    records = [found for found in (kept.cifar10_speed, kept.imagenet_speed, kept.digits_speed) if found]
    if not records:
        return None
    shapes = {name: found for record in records for name, found in record.shapes.items()}
    reached = list(reached_ratios(shapes))
    in_process = [one for one in reached if one.engine in IN_PROCESS]
    served = [one for one in reached if one.engine not in IN_PROCESS]
    return {
        "records": records,
        "gpu": kept.gpu_speed,
        "certify": kept.gpu_certify,
        "steps": kept.gpu_heat_step,
        "step_cells": [_step_cells(cell) for cell in kept.gpu_heat_step.cells] if kept.gpu_heat_step else [],
        "train": kept.gpu_train,
        "blocks": [(column_title(column), list(column_lines(column, shapes, kept.gpu_speed))) for column in TABLE_2],
        "digits": list(engine_lines("digits", shapes["digits"])) if "digits" in shapes else [],
        "digits_speed": shapes.get("digits"),
        "not_run": NOT_RUN,
        "reach": RATIO_REACH,
        "least": min(in_process, key=lambda one: one.times, default=None),
        "missed": [one for one in in_process if one.times < RATIO_REACH],
        "served": min(served, key=lambda one: one.times, default=None),
        "engines": ENGINE_NAMES,
    }


def line_page(kept: KeptResults) -> dict[str, object] | None:
    """Figures 3 and 4."""
    return None if kept.line is None else {"record": kept.line, "line": kept.line.line, "plane": kept.line.plane}


def _step_cells(cell: StepCell) -> list[str]:
    measured = [NOT_RUN] * 3
    if cell.milliseconds is not None and cell.images_per_second is not None:
        peak = "–" if cell.peak_mib is None else f"{cell.peak_mib:,.0f} MiB"
        measured = [f"{cell.milliseconds:.1f}", f"{cell.images_per_second:,.0f}", peak]
    compiled = "yes" if cell.compiled else "no"
    return [f"`{cell.classifier}`", cell.step, cell.precision, compiled, str(cell.batch_size), *measured]
