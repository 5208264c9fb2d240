"""The figure of `bench load`: throughput over callers beside the floors, and latency over the rate of arrivals."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from heatserve.benchmarks.load.targets import only
from heatserve.benchmarks.records.load import Heard, LoadRecord, LoadRow, ModelLoad
from heatserve.certification.files import write_atomically


def draw_load(record: LoadRecord, path: Path) -> None:
    """Write the figure (SVG), a row for each model."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "heatserve"  # the same results give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(record.shapes), 2, figsize=(9.5, 3.6 * len(record.shapes)), squeeze=False, layout="constrained"
    )
    for (left, right), (name, found) in zip(axes, record.shapes.items(), strict=True):
        _draw_throughput(left, name, found)
        _draw_latency(right, found)
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    write_atomically(path, content.getvalue())


def _draw_throughput(axes: Any, name: str, found: ModelLoad) -> None:
    for label, rows in _by_kind(found.closed).items():
        axes.plot([one.callers for one in rows], [one.images_per_second for one in rows], marker=".", label=label)
    best = max(row.images_per_second for row in found.raw)
    axes.axhline(best, color="grey", linestyle="--", label="ONNX Runtime, best batch")
    axes.set(title=name, xlabel="callers", ylabel="images a second", xscale="log", yscale="log")
    ticks = sorted({one.callers for one in map(only, found.closed) if one.callers})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.legend(fontsize="x-small")


def _draw_latency(axes: Any, found: ModelLoad) -> None:
    for index, (label, rows) in enumerate(_by_kind(found.opened).items()):
        answered = [(one.rate, one.milliseconds) for one in rows if one.milliseconds]
        for dashes, quantile in (("-", "p50"), ("--", "p99"), (":", "p999")):
            axes.plot(
                [rate for rate, _ in answered],
                [getattr(times, quantile) for _, times in answered],
                dashes,
                color=f"C{index}",
                marker=".",
                label=f"{label}, {quantile.replace('p999', 'p99.9')}",
            )
    axes.set(
        title="from the intended start", xlabel="requests that arrive a second", ylabel="milliseconds", yscale="log"
    )
    axes.legend(fontsize="x-small")


def _by_kind(rows: tuple[LoadRow, ...]) -> dict[str, list[Heard]]:
    """What was heard, by kind of request."""
    found: dict[str, list[Heard]] = {}
    for one in map(only, rows):
        several = f", {one.images} images" if one.images > 1 else ""
        found.setdefault(f"{one.tier}, {one.protocol}, {one.input}{several}", []).append(one)
    return found
