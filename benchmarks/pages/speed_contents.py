"""What the pages of Table 2 and of Figures 3 and 4 show, and the cells that wait for a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from heatserve.benchmarks.pages.kept import KeptResults
from heatserve.benchmarks.paper.published import TABLE_2, PublishedSeconds
from heatserve.benchmarks.records.gpu import StepCell
from heatserve.benchmarks.records.table2 import ClassifierSpeed, MedianRatio, SpeedPair, SpeedRecord

NOT_RUN = "not run"
"""What a cell says that nobody has measured yet."""
RATIO_REACH = 4
"""How many times the paper's ratio each in process should be at least."""

_ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "torch": "PyTorch, eager",
        "onnxruntime": "ONNX Runtime",
        "grpc": "Triton over gRPC",
        "eager": "PyTorch, eager",
        "channels-last": "PyTorch, channels last",
        "float16": "PyTorch, channels last, FP16",
        "bfloat16": "PyTorch, channels last, BF16",
        "cuda-graph": "CUDA graph",
        "cuda-graph-float16": "CUDA graph, FP16",
    }
)
"""What the engines are, by the names in the results."""
_COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"CIFAR-10": ("cifar10-resnet34", "cifar10-resnet20"), "ImageNet-1k": ("imagenet-resnet50",)}
)
"""The classifiers that are compared with a column of the paper's table; the first has the paper's network."""
_IN_PROCESS = ("torch", "onnxruntime")


@dataclass(frozen=True)
class ReachedRatio:
    """A ratio of ours on a CPU, and the paper's beside it."""

    classifier: str
    engine: str
    ratio: MedianRatio
    published: float

    @property
    def times(self) -> float:
        """How many times the paper's it is."""
        return self.ratio.median / self.published


def speed_page(kept: KeptResults) -> dict[str, object] | None:
    """Table 2 beside the paper's, and all that a GPU measured; None: nothing is measured on a CPU yet."""
    records = [found for found in (kept.cifar10_speed, kept.imagenet_speed, kept.digits_speed) if found]
    if not records:
        return None
    shapes = {name: found for record in records for name, found in record.shapes.items()}
    reached = list(_reached(shapes))
    in_process = [one for one in reached if one.engine in _IN_PROCESS]
    return {
        "records": records,
        "gpu": kept.gpu_speed,
        "certify": kept.gpu_certify,
        "steps": kept.gpu_heat_step,
        "step_cells": [_step_cells(cell) for cell in kept.gpu_heat_step.cells] if kept.gpu_heat_step else [],
        "train": kept.gpu_train,
        "blocks": [(_title(column), list(_lines(column, shapes, kept.gpu_speed))) for column in TABLE_2],
        "digits": list(_engine_lines("digits", shapes["digits"])) if "digits" in shapes else [],
        "digits_speed": shapes.get("digits"),
        "not_run": NOT_RUN,
        "reach": RATIO_REACH,
        "least": min(in_process, key=lambda one: one.times, default=None),
        "missed": [one for one in in_process if one.times < RATIO_REACH],
        "served": min(
            (one for one in reached if one.engine not in _IN_PROCESS), key=lambda one: one.times, default=None
        ),
        "engines": _ENGINES,
    }


def line_page(kept: KeptResults) -> dict[str, object] | None:
    """Figures 3 and 4."""
    return None if kept.line is None else {"record": kept.line, "line": kept.line.line, "plane": kept.line.plane}


def _title(column: PublishedSeconds) -> str:
    return f"{column.dataset}, {column.processor}, n₀ = {column.n0}"


def _lines(
    column: PublishedSeconds, shapes: Mapping[str, ClassifierSpeed], gpu: SpeedRecord | None
) -> Iterator[list[str]]:
    """The paper's line of one column of its table, and ours."""
    yield ["the paper", "", f"{column.deterministic:.4f}", f"{column.stochastic:.4f}", f"{column.ratio:.1f}", ""]
    found = shapes if column.processor == "CPU" else gpu.shapes if gpu else {}
    for name in _COLUMNS[column.dataset]:
        if name in found:
            yield from _engine_lines(name, found[name])
        else:
            yield [NOT_RUN, f"`{name}`", *[""] * 4]


def _engine_lines(name: str, speed: ClassifierSpeed) -> Iterator[list[str]]:
    for engine, pair in speed.engines.items():
        yield _line(_ENGINES[engine], name, pair)
    ratio = speed.votes_in_process_to_grpc
    if ratio:
        votes, served = speed.engines["onnxruntime"].stochastic, speed.engines["grpc"].deterministic
        yield [
            "gRPC against votes in process",
            f"`{name}`",
            _seconds(served.p50),
            _seconds(votes.p50),
            *_ratio_cells(ratio),
        ]


def _line(engine: str, name: str, pair: SpeedPair) -> list[str]:
    seconds = _seconds(pair.deterministic.p50), _seconds(pair.stochastic.p50)
    return [engine, f"`{name}`", *seconds, *_ratio_cells(pair.ratio)]


def _ratio_cells(ratio: MedianRatio) -> tuple[str, str]:
    return f"{ratio.median:.1f}", f"{ratio.low:.1f} to {ratio.high:.1f}"


def _seconds(value: float) -> str:
    """To four digits after the point as in the paper, or three figures where that says less."""
    return f"{value:.4f}" if value >= 0.001 else f"{value:.2g}"


def _reached(shapes: Mapping[str, ClassifierSpeed]) -> Iterator[ReachedRatio]:
    """Every ratio on a CPU that is compared with one of the paper's."""
    for column in TABLE_2:
        for name in _COLUMNS[column.dataset] if column.processor == "CPU" else ():
            if name in shapes:
                for engine, pair in shapes[name].engines.items():
                    yield ReachedRatio(name, engine, pair.ratio, column.ratio)
                ratio = shapes[name].votes_in_process_to_grpc
                if ratio:
                    yield ReachedRatio(name, "votes in process", ratio, column.ratio)


def _step_cells(cell: StepCell) -> list[str]:
    measured = [NOT_RUN] * 3
    if cell.milliseconds is not None and cell.images_per_second is not None:
        peak = "–" if cell.peak_mib is None else f"{cell.peak_mib:,.0f} MiB"
        measured = [f"{cell.milliseconds:.1f}", f"{cell.images_per_second:,.0f}", peak]
    compiled = "yes" if cell.compiled else "no"
    return [f"`{cell.classifier}`", cell.step, cell.precision, compiled, str(cell.batch_size), *measured]
