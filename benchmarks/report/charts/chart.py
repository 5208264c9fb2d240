"""What a chart shows: series of points that each say their numbers, on two axes; and bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar


@dataclass(frozen=True)
class Point:
    """One point, what it says when it is pointed at, and how many observations it stands for."""

    x: float
    y: float
    says: str
    weight: int = 1

    @property
    def can_be_drawn(self) -> bool:
        """Both coordinates are numbers: a point that was not measured is left out."""
        return isfinite(self.x) and isfinite(self.y)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve through points, with a confidence band where one is known."""

    name: str
    points: Sequence[Point]
    style: int
    """Colour and dashes, 0 to 9, as the style sheet has them: no curve is told by its colour alone."""
    band: Sequence[tuple[float, float, float]] = ()
    """x, lower and upper bound."""
    steps: bool = False
    """Constant between points, and falling or rising at them, as the share of a finite set is."""
    marks: bool = True
    """Whether the points are drawn; where they are not, they still say their numbers."""
    every: int = 1
    """Of so many points one says its numbers; the curve goes through all of them."""


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points without a curve."""

    name: str
    points: Sequence[Point]
    style: int
    crosses: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A label and a range; `percent` writes shares in percent, `log` scales by the logarithm."""

    label: str
    low: float
    high: float
    percent: bool = False
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines and clouds on two axes."""

    label: str
    """What a screen reader says it is, in one sentence with the most important numbers."""
    x: Axis
    y: Axis
    lines: Sequence[Curve] = ()
    clouds: Sequence[Cloud] = ()
    diagonal: str | None = None
    """What the line y = x means, where it is drawn."""

    @property
    def series(self) -> tuple[Curve | Cloud, ...]:
        """Everything that the legend names: of curves in several parts one."""
        found: dict[str, Curve | Cloud] = {line.name: line for line in self.lines}
        return tuple((found | {cloud.name: cloud for cloud in self.clouds}).values())


@dataclass(frozen=True)
class Bar:
    """One bar with its name, what stands at its end, and what it says when it is pointed at."""

    name: str
    value: float
    shown: str
    says: str
    style: int


@dataclass(frozen=True, kw_only=True)
class BarChart:
    """Horizontal bars from 0 to the longest of them."""

    label: str
    bars: Sequence[Bar]
    series: ClassVar[tuple[()]] = ()
    """Bars are named where they are drawn, and need no legend."""
