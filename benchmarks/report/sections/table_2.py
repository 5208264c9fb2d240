"""Table 2 of the paper: seconds for one classification, in one pass and in n₀ noisy ones."""

from __future__ import annotations

from collections.abc import Iterator

from heatserve.benchmarks.records.table2 import ClassifierSpeed, SpeedPair, SpeedRecord
from heatserve.benchmarks.report.charts.chart import Bar, BarChart
from heatserve.benchmarks.report.document import NO_GPU, Figure, Table
from heatserve.benchmarks.report.formats import DASH, count, joined, plain, significant, times
from heatserve.benchmarks.report.published import published_seconds

ENGINES = {
    "torch": "PyTorch, as the paper",
    "onnxruntime": "ONNX Runtime",
    "grpc": "through the server, gRPC",
}
_STYLES = {"torch": 0, "onnxruntime": 1, "grpc": 4}


def table_2(dataset: str, record: SpeedRecord, source: str) -> Figure:
    """The ratios of a data set, with its table."""
    bars = [
        Bar(
            f"{name}, {ENGINES.get(engine, engine)}",
            pair.ratio.median,
            f"{times(pair.ratio.median)} ({significant(pair.ratio.low)} to {significant(pair.ratio.high)})",
            f"{name}, {ENGINES.get(engine, engine)}: n₀ = {found.n0} noisy passes take {times(pair.ratio.median)} as "
            f"long as "
            f"one pass, {significant(pair.ratio.low)} to {significant(pair.ratio.high)}",
            _STYLES.get(engine, 6),
        )
        for name, found in record.shapes.items()
        for engine, pair in found.engines.items()
    ]
    return Figure(
        name=f"table-2-{dataset}",
        title=f"Table 2, {dataset}: n₀ noisy passes divided by one pass",
        chart=BarChart(
            label=f"Time of n₀ noisy passes divided by that of one pass, {dataset}, by network and engine",
            unit="×",
            bars=bars,
        ),
        take_away=f"{'; '.join(f'{bar.name}: {bar.shown}' for bar in bars)}.{_beside(dataset)}",
        promise=(
            f"One image, {record.weights} weights, medians over {count(record.rounds)} rounds in which all ways take "
            f"turns; "
            f"{record.device_name or record.device}, {count(record.threads)} threads of PyTorch. Intervals: of the "
            f"median, "
            f"from order statistics, confidence {_confidence(record)}."
        ),
        numbers=Table(
            caption=f"Table 2, {dataset}: seconds for one classification",
            headings=[
                "network",
                "engine",
                "deterministic: CPU",
                "GPU",
                "stochastic: CPU",
                "GPU",
                "n₀",
                "ratio",
                "at least",
                "at most",
            ],
            rows=[
                *([*cells] for name, found in record.shapes.items() for cells in _rows(record, name, found)),
                *_printed(dataset),
            ],
            sources=[source],
            words=2,
        ),
    )


def _beside(dataset: str) -> str:
    """What the paper's ratio is, where it has one."""
    published = published_seconds(dataset)
    return f" The paper has {times(published.ratio)} on its CPU." if published else ""


def _confidence(record: SpeedRecord) -> str:
    found = {
        plain(round(pair.ratio.confidence, 4)) for shape in record.shapes.values() for pair in shape.engines.values()
    }
    return joined(sorted(found))


def _rows(record: SpeedRecord, name: str, found: ClassifierSpeed) -> Iterator[list[str]]:
    for engine, pair in found.engines.items():
        yield [
            name,
            ENGINES.get(engine, engine),
            *_columns(record, pair),
            count(found.n0),
            times(pair.ratio.median),
            significant(pair.ratio.low),
            significant(pair.ratio.high),
        ]


def _printed(dataset: str) -> Iterator[list[str]]:
    """What the paper has, where it measured this data set."""
    cpu, gpu = published_seconds(dataset, "CPU"), published_seconds(dataset, "GPU")
    if cpu and gpu:
        yield [
            "the paper",
            "PyTorch",
            *(f"{seconds:.4f}" for seconds in (cpu.deterministic, gpu.deterministic, cpu.stochastic, gpu.stochastic)),
            count(cpu.n0),
            f"{times(cpu.ratio)}; GPU {times(gpu.ratio)}",
            DASH,
            DASH,
        ]


def _columns(record: SpeedRecord, pair: SpeedPair) -> list[str]:
    """Deterministic and stochastic, each on a CPU and on a GPU."""
    one, many = significant(pair.deterministic.p50), significant(pair.stochastic.p50)
    return [one, NO_GPU, many, NO_GPU] if record.device == "cpu" else [DASH, one, DASH, many]
