"""Figure 4 of the paper: the iterated update (15) on a line, beside the exact solution of the heat equation.

f⁰ is a classifier of our own, since the paper prints none: it takes the values −1 and 1, its jumps rounded off by a
Gaussian. The boundaries are such that the point at −0.5 has about the paper's distances: 0.10 in f⁰, since an outlier
of the other class is near it, and 0.35 in f⁵.

The update is solved on a grid, not by a network: f^{k+1} is the exact minimiser of a sum in the place of the integral,
where all points of the line are equally likely (the paper's ρ). A Gaussian average of such a classifier is known in
closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded
from scipy.special import erf

from heatserve.benchmarks.paper.plane import solve_plane
from heatserve.benchmarks.records.line import Convergence, Line, LineCurve, LineRecord, LineRun, LineStep
from heatserve.benchmarks.records.record import made_now

Values = NDArray[np.float64]

Jump = Callable[[Values], Values]
"""From distances to a boundary to values from −1, far on the left, to 1."""


@dataclass(frozen=True)
class StepClassifier:
    """A classifier on the line that changes its class at each of the boundaries, from −1 to 1 at the first.

    Args:
        boundaries: in rising order.
        width: standard deviation of the Gaussian that rounds the jumps off.
    """

    boundaries: tuple[float, ...]
    width: float

    def average(self, x: Values, variance: float = 0.0) -> Values:
        """Its average over Gaussian noise of a variance; 0: itself. The solution of the heat equation, closed form."""
        scale = np.sqrt(2 * (self.width**2 + variance))
        return self.with_jumps(x, lambda distance: np.asarray(erf(distance / scale)))

    def with_jumps(self, x: Values, jump: Jump) -> Values:
        """−1, and a jump by 2 up or down at each boundary."""
        signs = [(-1) ** index for index in range(len(self.boundaries))]
        jumps = (sign * (1 + jump(x - at)) for sign, at in zip(signs, self.boundaries, strict=True))
        return np.asarray(-1 + sum(jumps))


F0 = StepClassifier((-0.4, -0.31, -0.16, -0.02, 0.08, 0.5, 0.57), width=0.01)
"""Narrow intervals of another class around are outliers, as in Figure 4(a)."""
LINE_SIGMA = 0.1
"""σ of the paper's run on CIFAR-10 (Appendix E)."""
TIME_STEPS = 8
AT = -0.5
HALF_WIDTH = 2.0
SPACING = 0.001
_SHOWN = (0, 1, 5, 8)
_CONVERGENCE = (1, 2, 4, 8, 16, 32, 64)
_POINTS = 26
"""Stars and circles beside the point: so many that one is in each interval."""


def measure_line(*, seed: int = 0) -> LineRecord:
    """Figures 3 and 4, in seconds on one core; nothing is trained.

    Args:
        seed: decides where the points are that are shown as stars and circles, and nothing else of Figure 4; and all
            points of Figure 3 but the outlier.
    """
    return LineRecord(**vars(made_now(seed=seed)), line=_line(seed), plane=solve_plane(seed=seed))


def next_step(f: Values, coefficient: float, spacing: float) -> Values:
    """The minimiser v of Σ ½(vᵢ − fᵢ)² + c·Σ ((vᵢ₊₁ − vᵢ)/spacing)²: one update (15) on a grid, [N].

    Its gradient vanishes where v + 2c·Lv = f, L being the second difference with its sign changed, and no flow through
    the ends.
    """
    weight = 2 * coefficient / spacing**2
    bands = np.empty((2, len(f)))
    bands[0] = -weight
    bands[1] = 1 + 2 * weight
    bands[1, [0, -1]] = 1 + weight
    return np.asarray(solveh_banded(bands, f))


def time_steps(f: Values, coefficient: float, spacing: float) -> Iterator[Values]:
    """f⁰, f¹, f², …, without an end."""
    while True:
        yield f
        f = next_step(f, coefficient, spacing)


def changes_of_class(x: Values, f: Values) -> Values:
    """Where f, given at x, changes its sign, by linear interpolation; in rising order."""
    before = np.flatnonzero(np.sign(f[:-1]) * np.sign(f[1:]) < 0)
    return np.asarray(x[before] - f[before] * (x[before + 1] - x[before]) / (f[before + 1] - f[before]))


def adversarial_distance(x: Values, f: Values, at: float) -> float:
    """How far the point is from the nearest one of another class; inf where there is none."""
    return float(np.min(np.abs(changes_of_class(x, f) - at), initial=np.inf))


def line_grid(spacing: float = SPACING) -> Values:
    """The points of the grid."""
    return np.linspace(-HALF_WIDTH, HALF_WIDTH, round(2 * HALF_WIDTH / spacing) + 1)


def _line(seed: int) -> Line:
    x, h = line_grid(), 1 / TIME_STEPS
    shown = np.abs(x) <= 1 + SPACING / 2
    some = np.arange(len(x))[shown][::5]
    jitter = np.random.default_rng(seed).uniform(-0.01, 0.01, _POINTS)
    points = np.sort(np.append(np.linspace(-0.97, 0.97, _POINTS) + jitter, AT))
    coefficient = h * LINE_SIGMA**2 / 2
    steps = list(islice(time_steps(F0.average(x), coefficient, SPACING), TIME_STEPS + 1))
    curves = tuple(
        LineCurve(
            k=k,
            values=_rounded(steps[k][some]),
            exact=_rounded(F0.average(x[some], 4 * coefficient * k)),
            classes=tuple(np.where(np.interp(points, x, steps[k]) < 0, -1, 1).tolist()),
        )
        for k in _SHOWN
    )
    return Line(
        boundaries=F0.boundaries,
        width=F0.width,
        sigma=LINE_SIGMA,
        time_steps=TIME_STEPS,
        half_width=HALF_WIDTH,
        spacing=SPACING,
        at=AT,
        printed=_run(x, coefficient),
        heat=_run(x, coefficient / 2),
        convergence=tuple(_convergence(x, count) for count in _CONVERGENCE),
        x=_rounded(x[some]),
        points=_rounded(points),
        curves=curves,
    )


def _run(x: Values, coefficient: float) -> LineRun:
    steps = []
    for k, f in enumerate(islice(time_steps(F0.average(x), coefficient, SPACING), TIME_STEPS + 1)):
        exact = F0.average(x, 4 * coefficient * k)
        found, expected = (adversarial_distance(x, values, AT) for values in (f, exact))
        largest, l2 = _errors(f - exact)
        steps.append(LineStep(k=k, distance=found, exact_distance=expected, largest_error=largest, l2_error=l2))
    return LineRun(coefficient=coefficient, variance=4 * coefficient, steps=tuple(steps))


def _convergence(x: Values, count: int) -> Convergence:
    """n_T time steps of the heat equation, whose coefficient is hσ²/4, to time 1."""
    last = next(islice(time_steps(F0.average(x), LINE_SIGMA**2 / (4 * count), SPACING), count, None))
    largest, l2 = _errors(last - F0.average(x, LINE_SIGMA**2))
    return Convergence(time_steps=count, largest_error=largest, l2_error=l2)


def _errors(difference: Values) -> tuple[float, float]:
    return float(np.abs(difference).max()), float(np.sqrt(SPACING * np.square(difference).sum()))


def _rounded(values: Values | Sequence[float]) -> tuple[float, ...]:
    """To four digits after the point: for a plot."""
    return tuple(np.round(values, 4).tolist())
