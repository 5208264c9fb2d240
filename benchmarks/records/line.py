"""What Figures 3 and 4 of the paper show: regularised classifiers on a line and in the plane, beside the exact ones.

Classes are −1 (the paper's blue stars) and 1 (its red circles): the signs of a classifier's values.
"""

from __future__ import annotations

from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record


@dataclass(frozen=True, kw_only=True)
class LineStep:
    """The classifier after k time steps."""

    k: int
    distance: float
    """From the point to the nearest change of class of f^k."""
    exact_distance: float
    """The same of the exact solution at that time."""
    largest_error: float
    """max |f^k − exact solution|, over the whole line."""
    l2_error: float
    """The square root of the integral of its square."""


@dataclass(frozen=True, kw_only=True)
class LineRun:
    """All time steps with one coefficient of the gradient term."""

    coefficient: float
    """c in ½|v − f|² + c|v′|², whose minimiser solves v − f = 2c·v″."""
    variance: float
    """Of the Gaussian whose average one step approximates, 4c."""
    steps: tuple[LineStep, ...]


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """How far the last time step is from the exact solution at time 1."""

    time_steps: int
    """n_T; h is 1/n_T."""
    largest_error: float
    l2_error: float


@dataclass(frozen=True, kw_only=True)
class LineCurve:
    """The classifier after k time steps, for a plot: values at the points of `Line.x`."""

    k: int
    values: tuple[float, ...]
    exact: tuple[float, ...]
    """The exact solution at that time."""
    classes: tuple[int, ...]
    """Of the points `Line.points`, by f^k."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Figure 4: the update (15) on a line, solved on a grid."""

    boundaries: tuple[float, ...]
    """Where f⁰ changes its class, first from −1 to 1."""
    width: float
    """Standard deviation by which the jumps of f⁰ are rounded off."""
    sigma: float
    time_steps: int
    """n_T."""
    half_width: float
    """The line is solved from minus this number to it; it is shown from −1 to 1."""
    spacing: float
    """Between two points of the grid."""
    at: float
    """The point whose adversarial distance is looked at."""
    printed: LineRun
    """With c = hσ²/2, as (15) is printed."""
    heat: LineRun
    """With c = hσ²/4, for which (14) is a step of the heat equation (11)."""
    convergence: tuple[Convergence, ...]
    """Of the heat equation's coefficient, by rising n_T."""
    x: tuple[float, ...]
    points: tuple[float, ...]
    curves: tuple[LineCurve, ...]
    """As (15) is printed."""


Polyline = tuple[tuple[float, float], ...]
"""Points (x, y) in order."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Figure 3: gradient regularisation (4) in the plane, solved on a grid."""

    sigma: float
    half_width: float
    spacing: float
    points: Polyline
    labels: tuple[int, ...]
    outlier: int
    """Which of the points it is."""
    original: tuple[int, ...]
    """Classes of the points by the original classifier."""
    smoothed: tuple[int, ...]
    """By the minimiser of (4)."""
    original_boundary: tuple[Polyline, ...]
    smoothed_boundary: tuple[Polyline, ...]
    exact_boundary: tuple[Polyline, ...]
    """Of the Gaussian average with the variance 2σ² that the minimiser approximates."""
    steepest: float
    """max ‖∇f‖ of the original classifier where it is shown."""
    smoothed_steepest: float
    largest_error: float
    """max |minimiser − Gaussian average| where it is shown."""

    @property
    def changed(self) -> int:
        """Points whose class the minimiser changes."""
        return sum(before != after for before, after in zip(self.original, self.smoothed, strict=True))

    @property
    def only_outlier(self) -> bool:
        """Whether that is the outlier and no other point."""
        return self.changed == 1 and self.original[self.outlier] != self.smoothed[self.outlier]


@dataclass(frozen=True, kw_only=True)
class LineRecord(Record):
    """Figures 3 and 4."""

    line: Line
    plane: Plane
