"""Figures 3 and 4: a step on the grid is the minimiser that it should be, and many go to the heat kernel."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import erf, log_ndtr

from heatserve.benchmarks.paper.line import (
    AT,
    F0,
    LINE_SIGMA,
    SPACING,
    StepClassifier,
    Values,
    adversarial_distance,
    changes_of_class,
    line_grid,
    measure_line,
    next_step,
    time_steps,
)
from heatserve.benchmarks.paper.line_figure import draw_line
from heatserve.benchmarks.paper.plane import OUTLIER, BumpClassifier, boundary_lines, regularised, solve_plane
from heatserve.benchmarks.records.line import LineRecord
from heatserve.benchmarks.records.record import read_record, write_record


def gaussian(x: float, variance: float) -> float:
    return float(np.exp(-(x**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance))


def after_one_step(f: StepClassifier, x: Values, coefficient: float) -> Values:
    """The minimiser of ½|v − f|² + c|v′|² on the whole line, closed form.

    It solves v − f = 2c·v″: f averaged over noise with density exp(−|t|/ℓ)/(2ℓ), ℓ² = 2c.
    """
    length = np.sqrt(2 * coefficient)
    ratio = f.width / length

    def tail(distance: Values) -> Values:
        """exp(ratio²/2 + d/ℓ)·Φ(−d/width − ratio), without overflow."""
        return np.asarray(np.exp(ratio**2 / 2 + distance / length + log_ndtr(-distance / f.width - ratio)))

    return f.with_jumps(x, lambda d: np.asarray(erf(d / (np.sqrt(2) * f.width)) + tail(d) - tail(-d)))


@pytest.fixture(scope="module")
def record() -> LineRecord:
    return measure_line(seed=0)


@pytest.mark.parametrize("x", [-0.5, -0.37, 0.04, 0.3])
def test_the_average_in_closed_form_is_the_integral(x: float) -> None:
    few = StepClassifier((-0.4, -0.31, -0.16), width=0.05)
    value = lambda t: float(few.average(np.array([x - t]))[0]) * gaussian(t, 0.02)  # noqa: E731
    expected, _ = quad(value, -1.5, 1.5, limit=400, points=[x - at for at in few.boundaries])
    assert few.average(np.array([x]), 0.02)[0] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("x", [-0.5, -0.37, 0.04, 0.3])
def test_one_step_in_closed_form_is_the_integral(x: float) -> None:
    few, c = StepClassifier((-0.4, -0.31, -0.16), width=0.05), 0.003
    length = np.sqrt(2 * c)
    value = lambda t: float(few.average(np.array([x - t]))[0]) * np.exp(-abs(t) / length) / (2 * length)  # noqa: E731
    expected, _ = quad(value, -2.5, 2.5, limit=400, points=[0.0, *(x - at for at in few.boundaries)])
    assert after_one_step(few, np.array([x]), c)[0] == pytest.approx(expected, abs=1e-6)


def test_a_step_is_the_minimiser_on_the_grid() -> None:
    random = np.random.default_rng(0)
    f, c, spacing = random.standard_normal(40), 0.07, 0.2

    def objective(v: Values) -> float:
        return float(0.5 * np.square(v - f).sum() + c * np.square(np.diff(v) / spacing).sum())

    v = next_step(f, c, spacing)
    assert all(objective(v + 1e-3 * random.standard_normal(40)) > objective(v) for _ in range(200))
    slope = [(objective(v + d) - objective(v - d)) / 2e-4 for d in 1e-4 * np.eye(40)]
    assert np.abs(slope).max() < 1e-9


def test_a_step_divides_a_wave_by_one_plus_2c_times_its_frequency_squared() -> None:
    """v − f = 2c·v″ (DESIGN: the print of (15), c = hσ²/2, is twice the step of (14))."""
    x = (np.arange(2000) + 0.5) / 2000
    wave, c = np.cos(3 * np.pi * x), 0.01
    assert next_step(wave, c, 1 / 2000) == pytest.approx(wave / (1 + 2 * c * (3 * np.pi) ** 2), abs=2e-6)


def test_a_step_on_the_grid_is_the_closed_form_and_nearer_on_a_finer_one() -> None:
    c = LINE_SIGMA**2 / 16
    errors = []
    for spacing in (0.004, 0.002, 0.001):
        x = line_grid(spacing)
        errors.append(np.abs(next_step(F0.average(x), c, spacing) - after_one_step(F0, x, c)).max())
    assert errors[-1] < 5e-5
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)  # of second order
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


def test_the_time_steps_go_to_the_heat_kernel_as_h_goes_to_0(record: LineRecord) -> None:
    found = record.line.convergence
    for coarse, fine in pairwise(found):
        assert fine.time_steps == 2 * coarse.time_steps
        assert fine.largest_error < coarse.largest_error
        assert fine.l2_error < coarse.l2_error
    assert found[-2].largest_error / found[-1].largest_error == pytest.approx(2, rel=0.02)  # of first order
    assert found[-1].largest_error < 0.005


def test_the_print_of_15_takes_twice_the_step_of_the_heat_equation(record: LineRecord) -> None:
    line, x = record.line, line_grid()
    assert line.printed.coefficient == pytest.approx(LINE_SIGMA**2 / (2 * line.time_steps))
    assert line.printed.variance == pytest.approx(2 * LINE_SIGMA**2 / line.time_steps)
    assert line.heat.variance == pytest.approx(LINE_SIGMA**2 / line.time_steps)  # that of σ²/2·Δ for a time h
    many = next(islice(time_steps(F0.average(x), LINE_SIGMA**2 / 2 / 200, SPACING), 200, None))
    assert np.abs(many - F0.average(x, 2 * LINE_SIGMA**2)).max() < 1e-3
    assert np.abs(many - F0.average(x, LINE_SIGMA**2)).max() > 0.1


def test_the_point_of_figure_4_has_the_papers_distances(record: LineRecord) -> None:
    steps = record.line.printed.steps
    assert record.line.at == AT == -0.5
    assert steps[0].distance == pytest.approx(0.10, abs=1e-3)
    assert steps[5].distance == pytest.approx(0.35, abs=5e-3)
    assert steps[5].exact_distance == pytest.approx(0.35, abs=5e-3)


@pytest.mark.parametrize("run", ["printed", "heat"])
def test_the_adversarial_distance_grows_with_time(run: str, record: LineRecord) -> None:
    steps = getattr(record.line, run).steps
    assert [step.k for step in steps] == list(range(9))
    assert all(later.distance > earlier.distance for earlier, later in pairwise(steps))
    assert all(later.exact_distance > earlier.exact_distance for earlier, later in pairwise(steps))


def test_a_distance_is_to_the_nearest_change_of_class() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    f = np.array([-1.0, -1.0, 3.0, 1.0, -1.0])
    assert changes_of_class(x, f) == pytest.approx([1.25, 3.5])
    assert adversarial_distance(x, f, 1.0) == pytest.approx(0.25)
    assert adversarial_distance(x, f, 4.0) == pytest.approx(0.5)
    assert adversarial_distance(x, np.abs(f), 4.0) == np.inf


def test_points_have_the_class_of_the_curve_above_them(record: LineRecord) -> None:
    for curve in record.line.curves:
        above = np.interp(record.line.points, record.line.x, curve.values)
        sure = np.abs(above) > 0.2
        assert sure.sum() > 20
        assert np.array_equal(np.sign(above[sure]), np.array(curve.classes)[sure])
    first, *_, last = (curve.classes for curve in record.line.curves)
    outliers = [x for x, before, after in zip(record.line.points, first, last, strict=True) if before != after]
    assert len(outliers) >= 3  # one in each narrow interval at least


def test_regularisation_in_the_plane_is_the_minimiser_of_4() -> None:
    random = np.random.default_rng(1)
    f, sigma, spacing = random.standard_normal((12, 12)), 0.3, 0.25

    def objective(v: Values) -> float:
        squares = np.square(np.diff(v, axis=0)).sum() + np.square(np.diff(v, axis=1)).sum()
        return float(np.square(v - f).sum() + sigma**2 / spacing**2 * squares)

    v = regularised(f, sigma, spacing)
    assert all(objective(v + 1e-3 * random.standard_normal(v.shape)) > objective(v) for _ in range(200))


def test_a_bump_classifier_answers_its_labels_and_averages_as_the_integral_does() -> None:
    points, labels = np.array([[0.3, 0.1], [-0.2, -0.2], [-0.3, 0.0]]), np.array([1.0, -1.0, 1.0])
    f = BumpClassifier(points, labels, width=0.1, bump=0.12)
    assert f.average(points) == pytest.approx(labels)
    at, variance = np.array([-0.25, 0.05]), 0.02
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)  # type: ignore[no-untyped-call]
    shift = np.sqrt(variance) * np.stack(np.meshgrid(nodes, nodes), axis=-1)
    expected = (f.average(at + shift) * np.outer(weights, weights)).sum() / (2 * np.pi)
    assert f.average(at, variance) == pytest.approx(expected, abs=1e-6)
    axis = np.linspace(-0.4, 0.2, 7)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    assert f.average_on(axis, variance) == pytest.approx(f.average(grid, variance))


def test_regularisation_changes_the_class_of_the_outlier_and_of_nothing_else(record: LineRecord) -> None:
    plane = record.plane
    assert plane.original == plane.labels
    changed = [i for i, (a, b) in enumerate(zip(plane.original, plane.smoothed, strict=True)) if a != b]
    assert changed == [plane.outlier]
    assert plane.points[plane.outlier] == OUTLIER
    assert (plane.original[plane.outlier], plane.smoothed[plane.outlier]) == (1, -1)
    assert plane.smoothed_steepest < plane.steepest / 2
    assert (len(plane.original_boundary), len(plane.smoothed_boundary)) == (2, 1)  # the outlier's own one is gone


def test_a_boundary_is_where_the_values_are_0() -> None:
    axis = np.linspace(-1, 1, 201)
    (circle,) = boundary_lines(axis, axis[:, None] ** 2 + axis**2 - 0.25)
    assert circle[0] == circle[-1]
    assert np.hypot(*np.transpose(circle)) == pytest.approx(0.5, abs=1e-3)


def test_the_same_seed_gives_the_same_figures(record: LineRecord, tmp_path: Path) -> None:
    assert solve_plane(seed=0) == record.plane
    assert solve_plane(seed=1).points != record.plane.points
    write_record(tmp_path / "line.json", record)
    assert read_record(tmp_path / "line.json", LineRecord) == record
    pictures = []
    for name in "ab":
        draw_line(record, tmp_path / f"line-{name}.svg", tmp_path / f"plane-{name}.svg")
        pictures.append([(tmp_path / f"{kind}-{name}.svg").read_bytes() for kind in ("line", "plane")])
    assert pictures[0] == pictures[1]
    assert b"<svg" in pictures[0][0]
