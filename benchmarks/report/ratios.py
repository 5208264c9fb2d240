"""How many times as long n₀ noisy passes take as one pass on a CPU, of the networks that the paper measured, too."""

from __future__ import annotations

from dataclasses import dataclass

from heatserve.benchmarks.paper.published import PublishedSeconds
from heatserve.benchmarks.report.published import published_seconds
from heatserve.benchmarks.report.reported import ReportedResults


@dataclass(frozen=True, kw_only=True)
class CpuRatio:
    """One network: n₀ noisy passes by one pass."""

    network: str
    source: str
    """File of results."""
    leads_to: str
    """The figure that has it."""
    in_process: float
    low: float
    high: float
    """An interval of `in_process`: of the median, or quartiles over rounds."""
    through_server: float | None
    published: PublishedSeconds

    @property
    def is_settled(self) -> bool:
        """Whether the interval leaves out the paper's ratio."""
        return not self.low <= self.published.ratio <= self.high


def cpu_ratios(reported: ReportedResults) -> list[CpuRatio]:
    """Those of Table 2, in PyTorch as the paper has it; of `bench latency` where Table 2 has no such network yet."""
    found = {ratio.network: ratio for ratio in (*_of_latency(reported), *_of_table_2(reported))}
    return [*found.values()]


def _of_latency(reported: ReportedResults) -> list[CpuRatio]:
    shapes = reported.kept.latency.shapes if reported.kept.latency else {}
    ratios = {name: found.ratios for name, found in shapes.items() if "stochastic / plain" in found.ratios}
    return [
        CpuRatio(
            network=name,
            source="latency.json",
            leads_to="latency-figure",
            in_process=each["stochastic / plain"].p50,
            low=each["stochastic / plain"].p25,
            high=each["stochastic / plain"].p75,
            through_server=each["stochastic / grpc"].p50 if "stochastic / grpc" in each else None,
            published=published,
        )
        for name, each in ratios.items()
        if (published := published_seconds(name))
    ]


def _of_table_2(reported: ReportedResults) -> list[CpuRatio]:
    on_cpu = [found for found in reported.paper if found.speed and found.speed.device == "cpu"]
    return [
        CpuRatio(
            network=name,
            source=results.file("speed"),
            leads_to="table-2",
            in_process=speed.engines["torch"].ratio.median,
            low=speed.engines["torch"].ratio.low,
            high=speed.engines["torch"].ratio.high,
            through_server=speed.engines["grpc"].ratio.median if "grpc" in speed.engines else None,
            published=published,
        )
        for results in on_cpu
        for name, speed in (results.speed.shapes.items() if results.speed else ())
        if "torch" in speed.engines and (published := published_seconds(name))
    ]
