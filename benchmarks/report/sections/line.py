"""Figures 3 and 4: gradient regularisation in the plane, and time steps on a line, beside the exact solutions."""

from __future__ import annotations

from heatserve.benchmarks.records.line import Line as LineProblem
from heatserve.benchmarks.records.line import LineCurve, LineRecord, Plane
from heatserve.benchmarks.report.charts.chart import Axis, Chart, Cloud, Curve, Point
from heatserve.benchmarks.report.document import Beside, Figure, Prose, Section, Table
from heatserve.benchmarks.report.formats import count, decimals, plain, significant
from heatserve.benchmarks.report.reported import ReportedResults

_SOURCE = "line.json"
_CLASSES = {-1: ("class −1", 1), 1: ("class 1", 5)}
_SPEAKING = 40
"""Points of a curve that say their numbers, about."""


def line_section(reported: ReportedResults) -> Section | None:
    """The plane, and each time step that is kept."""
    record = reported.kept.line
    if record is None:
        return None
    return Section(
        "line",
        "Figures 3 and 4: the heat equation where it can be solved",
        [
            Prose(
                "On a line and in the plane the minimisers of the paper’s losses can be computed on a grid, and the "
                "Gaussian average exactly: no network and no training stands between them."
            ),
            Beside([_plane(record.plane), *(_step(record, curve) for curve in record.line.curves)]),
            _convergence(record.line),
        ],
    )


def _step(record: LineRecord, curve: LineCurve) -> Figure:
    line = record.line
    step = next((one for one in line.printed.steps if one.k == curve.k), line.printed.steps[-1])
    every = max(1, len(line.x) // _SPEAKING)
    lines = [
        Curve(name=name, points=_values(name, line.x, values), style=style, marks=False, every=every)
        for name, values, style in (
            ("update (15), on a grid", curve.values, 1),
            ("heat equation, exact", curve.exact, 0),
        )
    ]
    clouds = [
        Cloud(
            name=name,
            points=[
                Point(x, 0.0, f"point {plain(x)}: {name}")
                for x, found in zip(line.points, curve.classes, strict=True)
                if found == sign
            ],
            style=style,
            crosses=sign < 0,
        )
        for sign, (name, style) in _CLASSES.items()
    ]
    return Figure(
        name=f"figure-4-{curve.k}",
        title=f"Figure 4: after {count(curve.k)} of {count(line.time_steps)} time steps",
        chart=Chart(
            label=f"The classifier on a line after {curve.k} time steps, and the exact solution of the heat equation",
            x=Axis(label="x", low=-1, high=1),
            y=Axis(label="value; its sign is the class", low=-1.25, high=1.25),
            lines=lines,
            clouds=[cloud for cloud in clouds if cloud.points],
        ),
        take_away=(
            f"From x = {plain(line.at)} the nearest other class is {decimals(step.distance, 2)} away; by the exact "
            f"solution {decimals(step.exact_distance, 2)}."
        ),
        promise=f"σ = {plain(line.sigma)}, grid of {plain(line.spacing)}; as (15) is printed. Nothing is left to "
        "chance.",
        numbers=Table(
            caption=f"All time steps, as (15) is printed; this is k = {count(curve.k)}",
            headings=["k", "distance", "exact", "largest error", "L2 error"],
            rows=[
                [
                    count(one.k),
                    decimals(one.distance),
                    decimals(one.exact_distance),
                    significant(one.largest_error),
                    significant(one.l2_error),
                ]
                for one in line.printed.steps
            ],
            sources=[_SOURCE],
        ),
    )


def _values(name: str, x: tuple[float, ...], values: tuple[float, ...]) -> list[Point]:
    return [
        Point(at, value, f"{name}: {decimals(value)} at x = {plain(at)}") for at, value in zip(x, values, strict=True)
    ]


def _plane(plane: Plane) -> Figure:
    boundaries = (
        ("original classifier", plane.original_boundary, 2),
        ("minimiser of (4)", plane.smoothed_boundary, 1),
        ("Gaussian average", plane.exact_boundary, 3),
    )
    lines = [
        Curve(
            name=name,
            points=[Point(x, y, f"{name}: ({decimals(x, 2)}, {decimals(y, 2)})") for x, y in part],
            style=style,
            marks=False,
            every=max(1, len(part) // _SPEAKING),
        )
        for name, parts, style in boundaries
        for part in parts
    ]
    clouds = [
        Cloud(
            name=f"{name}, by the original classifier",
            points=[
                Point(x, y, f"point {index}: {name} before, {_CLASSES[plane.smoothed[index]][0]} after")
                for index, ((x, y), found) in enumerate(zip(plane.points, plane.original, strict=True))
                if found == sign
            ],
            style=style,
            crosses=sign < 0,
        )
        for sign, (name, style) in _CLASSES.items()
    ]
    changed = sum(before != after for before, after in zip(plane.original, plane.smoothed, strict=True))
    return Figure(
        name="figure-3",
        title="Figure 3: gradient regularisation in the plane",
        chart=Chart(
            label="Boundaries of the original classifier, of the minimiser of (4) and of the Gaussian average, with "
            "points",
            x=Axis(label="x", low=-1, high=1),
            y=Axis(label="y", low=-1, high=1),
            lines=lines,
            clouds=[cloud for cloud in clouds if cloud.points],
        ),
        take_away=(
            f"The minimiser changes the class of {count(changed)} of {count(len(plane.points))} points, the outlier "
            f"{'among them' if plane.original[plane.outlier] != plane.smoothed[plane.outlier] else 'not among them'}; "
            f"its steepest slope is {significant(plane.smoothed_steepest)} where the original’s is "
            f"{significant(plane.steepest)}."
        ),
        promise=f"σ = {plain(plane.sigma)}, grid of {plain(plane.spacing)}. Nothing is left to chance.",
        numbers=Table(
            caption="Figure 3 in numbers",
            headings=["what", "value"],
            rows=[
                ["steepest slope of the original classifier", significant(plane.steepest)],
                ["of the minimiser of (4)", significant(plane.smoothed_steepest)],
                ["largest difference of the minimiser to the Gaussian average", significant(plane.largest_error)],
                ["points whose class changed", f"{count(changed)} of {count(len(plane.points))}"],
            ],
            sources=[_SOURCE],
        ),
    )


def _convergence(line: LineProblem) -> Table:
    return Table(
        caption="Distance to the exact solution at time 1, over the number of time steps",
        headings=["time steps", "largest error", "L2 error"],
        rows=[
            [count(one.time_steps), significant(one.largest_error), significant(one.l2_error)]
            for one in line.convergence
        ],
        sources=[_SOURCE],
        note=(
            "With the coefficient hσ²/4, for which (14) is a step of the heat equation. As (15) is printed, hσ²/2, "
            "the update takes steps of twice that length, to a Gaussian average of twice the variance."
        ),
    )
