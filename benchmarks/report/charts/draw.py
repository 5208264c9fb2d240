"""Charts as SVG: colours are variables of the page's style sheet, so that dark mode and print change them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from math import log10, sqrt

from markupsafe import Markup

from heatserve.benchmarks.report.charts.chart import Bar, BarChart, Chart, Cloud, Curve, Point
from heatserve.benchmarks.report.charts.scale import Scale

_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 16, 26, 44
_ROW = 46
"""Height of a bar with the name above it."""
_LETTER = 8
"""Width of a letter, about."""


@singledispatch
def draw(chart: object) -> Markup:
    """A chart as `<svg>`."""
    raise TypeError(f"chart: expected a Chart or a BarChart, got {type(chart).__name__}")


@draw.register
def _chart(chart: Chart) -> Markup:
    x = Scale(chart.x, _LEFT, _WIDTH - _RIGHT)
    y = Scale(chart.y, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_axes(x, y), *(_band(line, x, y) for line in chart.lines if line.band)]
    if chart.diagonal:
        end = min(chart.x.high, chart.y.high)
        parts.append(_path("diagonal", [(x(chart.x.low), y(chart.x.low)), (x(end), y(end))]))
    parts += [_curve(line, x, y) for line in chart.lines]
    parts += [_cloud(cloud, x, y) for cloud in chart.clouds]
    return _svg(chart.label, _HEIGHT, parts)


@draw.register
def _bars(chart: BarChart) -> Markup:
    width = _WIDTH - 2 * _RIGHT - _LETTER * max((len(bar.shown) for bar in chart.bars), default=0)
    longest = max((bar.value for bar in chart.bars), default=0.0)
    lengths = (width * bar.value / longest if longest > 0 else 0.0 for bar in chart.bars)
    parts = [_bar(bar, index, length) for index, (bar, length) in enumerate(zip(chart.bars, lengths, strict=True))]
    return _svg(chart.label, _ROW * len(chart.bars) + 6, parts)


def swatch(style: int, *, cross: bool = False, line: bool = True) -> Markup:
    """What the legend shows of a series: its dashes and its mark."""
    parts = [_path(f"line s{style}", [(2, 8), (34, 8)])] if line else []
    mark = _cross(18, 8) if cross else Markup('<circle cx="18" cy="8" r="3.5"/>')
    parts.append(Markup('<g class="marks s{}{}">{}</g>').format(style, " crosses" if cross else "", mark))
    return Markup('<svg viewBox="0 0 36 16" width="36" height="16" aria-hidden="true">{}</svg>').format(_joined(parts))


def _svg(label: str, height: int, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, height, label, _joined(parts)
    )


def _joined(parts: Sequence[Markup]) -> Markup:
    return Markup("\n").join(parts)


def _axes(x: Scale, y: Scale) -> Iterator[Markup]:
    for value, written in y.ticks():
        at = _number(y(value))
        yield Markup('<path class="grid" d="M{} {}H{}"/>').format(_LEFT, at, _WIDTH - _RIGHT)
        yield Markup('<text class="end" x="{}" y="{}" dy=".35em">{}</text>').format(_LEFT - 6, at, written)
    for value, written in x.ticks():
        at = _number(x(value))
        yield Markup('<path class="grid" d="M{} {}V{}"/>').format(at, _TOP, _HEIGHT - _BOTTOM)
        yield Markup('<text class="middle" x="{}" y="{}">{}</text>').format(at, _HEIGHT - _BOTTOM + 17, written)
    yield Markup('<text class="quiet" x="2" y="13">{}</text>').format(y.axis.label)
    middle = _number((_LEFT + _WIDTH - _RIGHT) / 2)
    yield Markup('<text class="middle quiet" x="{}" y="{}">{}</text>').format(middle, _HEIGHT - 8, x.axis.label)
    yield Markup('<path class="axis" d="M{} {}H{}"/>').format(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT)


def _curve(line: Curve, x: Scale, y: Scale) -> Markup:
    shown = [point for point in line.points if point.can_be_drawn]
    places: list[tuple[float, float]] = []
    for point in shown:
        if line.steps and places:
            places.append((x(point.x), places[-1][1]))
        places.append((x(point.x), y(point.y)))
    kind = "marks" if line.marks else "marks silent"
    points = _joined([_dot(point, x, y) for point in shown[:: line.every]])
    return Markup('{}\n<g class="{} s{}">{}</g>').format(_path(f"line s{line.style}", places), kind, line.style, points)


def _cloud(cloud: Cloud, x: Scale, y: Scale) -> Markup:
    kind = "marks cloud crosses" if cloud.crosses else "marks cloud"
    shown = [point for point in cloud.points if point.can_be_drawn]
    one = _crossed if cloud.crosses else _dot
    return Markup('<g class="{} s{}">{}</g>').format(kind, cloud.style, _joined([one(p, x, y) for p in shown]))


def _dot(point: Point, x: Scale, y: Scale) -> Markup:
    return Markup('<circle class="p" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
        _number(x(point.x)), _number(y(point.y)), _size(3.2, point.weight), point.says
    )


def _crossed(point: Point, x: Scale, y: Scale) -> Markup:
    size = float(_size(3.6, point.weight))
    cross = _cross(x(point.x), y(point.y), size)
    return Markup('<g class="p" data-x="{}" data-y="{}"><title>{}</title>{}</g>').format(
        _number(x(point.x)), _number(y(point.y)), point.says, cross
    )


def _cross(x: float, y: float, size: float = 3.6) -> Markup:
    side = _number(2 * size)
    start = f"M{_number(x - size)} {_number(y - size)}l{side} {side}M{_number(x - size)} {_number(y + size)}l{side}"
    return Markup('<path d="{} -{}"/>').format(start, side)


def _size(one: float, weight: int) -> str:
    """The radius of a mark that stands for several images: its area grows with the logarithm of their number."""
    return _number(one * sqrt(1 + log10(weight)))


def _band(line: Curve, x: Scale, y: Scale) -> Markup:
    forth = [(x(at), y(low)) for at, low, _ in line.band]
    back = [(x(at), y(high)) for at, _, high in reversed(line.band)]
    if line.steps:
        forth, back = _stairs(forth), _stairs(back[::-1])[::-1]
    return _path(f"band s{line.style}", [*forth, *back], closed=True)


def _stairs(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for at, height in places:
        if found:
            found.append((at, found[-1][1]))
        found.append((at, height))
    return found


def _path(kind: str, places: Sequence[tuple[float, float]], *, closed: bool = False) -> Markup:
    drawn = "L".join(f"{_number(x)} {_number(y)}" for x, y in places)
    return Markup('<path class="{}" d="{}"/>').format(kind, f"M{drawn}{'Z' if closed else ''}" if places else "")


def _bar(bar: Bar, index: int, length: float) -> Markup:
    top = index * _ROW
    return Markup(
        '<g class="bar s{style}"><text x="2" y="{name_at}">{name}</text>'
        '<rect class="p" x="2" y="{top}" width="{length}" height="16" rx="2" data-x="{length}" data-y="{middle}">'
        '<title>{says}</title></rect><text class="value" x="{end}" y="{middle}" dy=".35em">{shown}</text></g>'
    ).format(
        style=bar.style,
        name_at=top + 16,
        name=bar.name,
        top=top + 22,
        length=_number(max(length, 1.5)),
        middle=top + 30,
        says=bar.says,
        end=_number(length + 9),
        shown=bar.shown,
    )


def _number(value: float) -> str:
    """A place on the paper, to a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")
