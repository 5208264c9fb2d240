"""Table 2 as lines of text, the paper's beside ours: for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rich import box
from rich.table import Table

from heatserve.benchmarks.paper.published import TABLE_2, PublishedSeconds
from heatserve.benchmarks.paper.tables import NOT_RUN
from heatserve.benchmarks.records.table2 import ClassifierSpeed, MedianRatio, SpeedPair, SpeedRecord

ENGINE_NAMES: Mapping[str, str] = MappingProxyType(
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
IN_PROCESS = ("torch", "onnxruntime")
"""Engines without a server."""

_COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"CIFAR-10": ("cifar10-resnet34", "cifar10-resnet20"), "ImageNet-1k": ("imagenet-resnet50",)}
)
"""The classifiers that are compared with a column of the paper's table; the first has the paper's network."""
_HEADINGS = ("", "network", "one pass, s", "n₀ passes, s", "ratio", "interval")


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


def column_title(column: PublishedSeconds) -> str:
    """What a column of the paper's table is about."""
    return f"{column.dataset}, {column.processor}, n₀ = {column.n0}"


def column_lines(
    column: PublishedSeconds, shapes: Mapping[str, ClassifierSpeed], gpu: SpeedRecord | None
) -> Iterator[list[str]]:
    """The paper's line of one column of its table, and ours."""
    yield ["the paper", "", f"{column.deterministic:.4f}", f"{column.stochastic:.4f}", f"{column.ratio:.1f}", ""]
    found = shapes if column.processor == "CPU" else gpu.shapes if gpu else {}
    for name in _COLUMNS[column.dataset]:
        if name in found:
            yield from engine_lines(name, found[name])
        else:
            yield [NOT_RUN, f"`{name}`", *[""] * 4]


def engine_lines(name: str, speed: ClassifierSpeed) -> Iterator[list[str]]:
    """Every engine of one classifier."""
    for engine, pair in speed.engines.items():
        yield _line(ENGINE_NAMES[engine], name, pair)
    ratio = speed.votes_in_process_to_grpc
    if ratio:
        votes, served = speed.engines["onnxruntime"].stochastic, speed.engines["grpc"].deterministic
        cells = _seconds(served.p50), _seconds(votes.p50), *_ratio_cells(ratio)
        yield ["gRPC against votes in process", f"`{name}`", *cells]


def reached_ratios(shapes: Mapping[str, ClassifierSpeed]) -> Iterator[ReachedRatio]:
    """Every ratio on a CPU that is compared with one of the paper's."""
    for column in TABLE_2:
        for name in _COLUMNS[column.dataset] if column.processor == "CPU" else ():
            if name in shapes:
                for engine, pair in shapes[name].engines.items():
                    yield ReachedRatio(name, engine, pair.ratio, column.ratio)
                ratio = shapes[name].votes_in_process_to_grpc
                if ratio:
                    yield ReachedRatio(name, "votes in process", ratio, column.ratio)


def speed_table(record: SpeedRecord) -> Table:
    """What was measured of one data set on a CPU, after the paper's line where it has one."""
    table = Table(
        title=f"Table 2: one classification; {record.machine.processor}, {record.machine.cores} cores",
        title_justify="left",
        box=box.SIMPLE,
    )
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=True)
    for name, found in record.shapes.items():
        for column in TABLE_2:
            if column.processor == "CPU" and name in _COLUMNS[column.dataset]:
                table.add_row(*next(column_lines(column, {}, None)), style="dim")
        for line in engine_lines(name, found):
            table.add_row(*(cell.strip("`") for cell in line))
        table.add_section()
    return table


def _line(engine: str, name: str, pair: SpeedPair) -> list[str]:
    seconds = _seconds(pair.deterministic.p50), _seconds(pair.stochastic.p50)
    return [engine, f"`{name}`", *seconds, *_ratio_cells(pair.ratio)]


def _ratio_cells(ratio: MedianRatio) -> tuple[str, str]:
    return f"{ratio.median:.1f}", f"{ratio.low:.1f} to {ratio.high:.1f}"


def _seconds(value: float) -> str:
    """To four digits after the point as in the paper, or two figures where that says less."""
    return f"{value:.4f}" if value >= 0.001 else f"{value:.2g}"
