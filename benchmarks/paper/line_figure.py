"""Figures 3 and 4 as pictures, drawn from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from heatserve.benchmarks.paper.line import measure_line
from heatserve.benchmarks.records.line import Line, LineRecord, Plane, Polyline
from heatserve.benchmarks.records.record import write_record
from heatserve.certification.files import write_atomically

_CLASSES = ((-1, "*", "tab:blue", "class −1"), (1, "o", "tab:red", "class 1"))
"""Sign, marker, colour and name, as in the paper."""


LINE_FILE, LINE_PICTURE, PLANE_PICTURE = "line.json", "line.svg", "line-plane.svg"
"""In the folder of all results: they belong to no data set."""


def write_line(folder: Path, *, seed: int = 0) -> LineRecord:
    """Solve Figures 3 and 4, and write their record and their pictures to a folder; seconds on one core."""
    record = measure_line(seed=seed)
    write_record(folder / LINE_FILE, record, in_lines=True)
    draw_line(record, folder / LINE_PICTURE, folder / PLANE_PICTURE)
    return record


def line_table(record: LineRecord) -> Table:
    """Every time step of Figure 4, and what Figure 3 changes."""
    line, plane = record.line, record.plane
    table = Table(
        title=f"Figure 4: from x = {line.at:g} to another class, σ = {line.sigma:g}, h = 1/{line.time_steps}",
        caption=f"Figure 3: the minimiser of (4) changes the class of {plane.changed} of {len(plane.points)} points"
        f"{', the outlier' if plane.only_outlier else ''}; gradients up to {plane.steepest:.1f} and "
        f"{plane.smoothed_steepest:.1f}",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE,
    )
    for heading in ("", "update (15)", "exact", "largest error", "with hσ²/4", "exact", "largest error"):
        table.add_column(heading, justify="right", no_wrap=True)
    for printed, heat in zip(line.printed.steps, line.heat.steps, strict=True):
        cells = [
            f"{value:.3f}" for one in (printed, heat) for value in (one.distance, one.exact_distance, one.largest_error)
        ]
        table.add_row(f"f{printed.k}", *cells)
    return table


def draw_line(record: LineRecord, line: Path, plane: Path) -> None:
    """Write Figure 4 to the file `line` and Figure 3 to the file `plane`, both SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "heatserve"  # the same results give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9.5, 5.6), sharex=True, sharey=True, layout="constrained")
    for panel, index in zip(axes.flat, range(len(record.line.curves)), strict=True):
        _draw_step(panel, record.line, index)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    _write(figure, line)
    figure, panel = pyplot.subplots(figsize=(6.2, 5.4), layout="constrained")
    _draw_plane(panel, record.plane)
    _write(figure, plane)


def _draw_step(axes: Any, line: Line, index: int) -> None:
    curve = line.curves[index]
    step = line.printed.steps[curve.k]
    axes.axhline(0, color="black", linestyle="--", linewidth=1)
    axes.plot(line.x, curve.values, color="tab:blue", label="update (15), on a grid")
    axes.plot(line.x, curve.exact, ":", color="black", label="heat equation, exact")
    for sign, marker, colour, name in _CLASSES:
        there = [x for x, found in zip(line.points, curve.classes, strict=True) if found == sign]
        axes.plot(there, [0.0] * len(there), marker, color=colour, markersize=5, label=name)
    axes.axvspan(line.at - step.distance, line.at + step.distance, color="tab:green", alpha=0.15)
    title = f"$f^{{{curve.k}}}$: from x = {line.at:g} to another class {step.distance:.2f}".replace("-", "−")
    axes.set(title=title, ylim=(-1.25, 1.25))
    axes.grid(alpha=0.3)


def _draw_plane(axes: Any, plane: Plane) -> None:
    _draw_boundary(axes, plane.original_boundary, "original classifier", color="tab:orange", linewidth=1.2)
    _draw_boundary(axes, plane.smoothed_boundary, "minimiser of (4)", color="black", linewidth=1.8)
    _draw_boundary(axes, plane.exact_boundary, "Gaussian average", color="tab:green", linestyle=":", linewidth=1.8)
    for sign, marker, colour, name in _CLASSES:
        there = [point for point, found in zip(plane.points, plane.original, strict=True) if found == sign]
        axes.plot(*zip(*there, strict=True), marker, color=colour, markersize=6, linestyle="", label=name)
    axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", title="symbols: classes of the original classifier")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)


def _draw_boundary(axes: Any, lines: Sequence[Polyline], name: str, **style: Any) -> None:
    for index, line in enumerate(lines):
        axes.plot(*zip(*line, strict=True), label=name if index == 0 else None, **style)


def _write(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    write_atomically(path, content.getvalue())
