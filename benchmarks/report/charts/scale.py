"""From numbers to places on the paper, and the round numbers that an axis is marked with."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

from heatserve.benchmarks.report.charts.chart import Axis

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Maps the range of an axis to [start, end]."""

    axis: Axis
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value; of one that lies outside, that of the nearest end."""
        low, high = self.axis.low, self.axis.high
        value = min(max(value, low), high)
        share = log10(value / low) / log10(high / low) if self.axis.log else (value - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Round numbers in the range, with what stands beside them."""
        axis = self.axis
        found = _powers(axis.low, axis.high) if axis.log else _rounds(axis.low, axis.high, count)
        return [(value, _written(value, percent=axis.percent)) for value in found]


def round_up(value: float) -> float:
    """The least round number that is no less, for the end of an axis; 1 where there is nothing to show."""
    if not isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9))


def _rounds(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in _STEPS if factor * power >= rough * (1 - 1e-9))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(ceil(log10(low) - 1e-9), floor(log10(high) + 1e-9) + 1)]


def _written(value: float, *, percent: bool) -> str:
    if percent:
        return f"{100 * value:.6g} %"
    return f"{value:,.6g}" if abs(value) >= 1 else f"{value:.6g}"
