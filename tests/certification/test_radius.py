"""Closed forms against scipy in float64: never above, hardly below, and right where float32 would give up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import norm
from tiny_model import shifted_map

from heatserve.certification.radius import (
    RadiusMap,
    certified_l_bound,
    l_bound,
    nominal_radius,
    top_score,
)

SIGMA = 0.25


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    """Float32 probabilities, as a network gives them."""
    shifted = np.exp((logits - logits.max(-1, keepdims=True)).astype(np.float32))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True, dtype=np.float32), np.float32)


def probability_vectors(count: int, classes: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random and adversarial vectors: any temperature, ties, one dominant class, denormals, exact zeros."""
    logits = rng.standard_normal((count, classes)) * np.exp(rng.uniform(-7, 4, (count, 1)))
    kind = rng.integers(0, 6, count)
    logits[kind == 1, 0] = logits[kind == 1, 1]  # a tie somewhere
    top = logits.argmax(-1)
    logits[kind == 2, top[kind == 2]] += rng.uniform(0, 110, (kind == 2).sum())  # dominant, down to denormal tails
    logits[kind == 3] = rng.uniform(-1e-6, 1e-6, ((kind == 3).sum(), classes))  # nearly uniform
    logits[kind == 4] = np.where(np.arange(classes) < 2, rng.uniform(-1e-4, 1e-4, ((kind == 4).sum(), classes)), -120)
    return softmax(logits)


def exact_radii(p: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """L-bound and nominal radius of the same float32 numbers by scipy, float64, with q summed in float64."""
    descending = -np.sort(-p.astype(np.float64), axis=-1)
    top, second, tail = descending[:, 0], descending[:, 1], descending[:, 1:].sum(-1)
    tiny = float(np.finfo(np.float32).tiny)
    first = np.where(tail < 0.5, norm.isf(np.maximum(tail, tiny)), norm.ppf(top))
    nominal = SIGMA / 2 * (first + norm.isf(np.clip(second, tiny, 0.5)))
    lipschitz = SIGMA * np.sqrt(np.pi / 2) * (np.where(tail < 0.5, 1 - tail, top) - second)
    return lipschitz, nominal


@pytest.mark.parametrize("classes", [2, 3, 10, 100, pytest.param(1000, marks=pytest.mark.slow)])
def test_never_above_float64_and_hardly_below(classes: int) -> None:
    p = probability_vectors(100_000 // 5, classes, np.random.default_rng(classes))
    for radius, exact in zip((l_bound(p, sigma=SIGMA), nominal_radius(p, sigma=SIGMA)), exact_radii(p), strict=True):
        exact = np.maximum(exact, 0)
        assert radius.dtype == np.float32
        assert (radius.astype(np.float64) <= exact).all()
        large = exact > 0.01 * SIGMA
        assert large.mean() > 0.2
        assert (radius[large] >= exact[large] * (1 - 1e-4)).all()


@settings(max_examples=500, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 20)), elements=st.floats(-120, 120)))
def test_identity_of_the_two_bounds(logits: NDArray[np.float64]) -> None:
    p = softmax(logits)
    lower, upper = l_bound(p, sigma=SIGMA), nominal_radius(p, sigma=SIGMA)
    assert (lower <= upper).all()
    assert (lower >= 0).all()
    assert np.isfinite(upper).all()


def test_bounds_meet_as_the_top_two_meet_at_one_half() -> None:
    for gap in (1e-2, 1e-3, 1e-4):
        p = np.array([0.5 + gap / 2, 0.5 - gap / 2])
        ratio = float(nominal_radius(p, sigma=1.0) / l_bound(p, sigma=1.0))
        assert 1 <= ratio < 1 + gap**2 + 1e-5


def test_top_score_keeps_its_digits_where_one_minus_p_has_none() -> None:
    p = np.array([1.0, 1e-12], np.float32)  # in float32, 1 − p₍₁₎ = 0
    assert top_score(p) == pytest.approx(norm.isf(1e-12), rel=1e-6)
    certain = nominal_radius(np.array([1.0, 0.0], np.float32), sigma=SIGMA)
    assert 12 * SIGMA < certain < 14 * SIGMA


@pytest.mark.parametrize("bad", [[np.nan, 0.5], [np.inf, 0.0], [1.5, -0.5], [0.2, 0.2], [5.0, 3.0]])
def test_what_is_no_probability_vector_gets_radius_0(bad: list[float]) -> None:
    p = np.array([bad, [0.9, 0.1]])
    for radius in (
        l_bound(p, sigma=SIGMA),
        nominal_radius(p, sigma=SIGMA),
        shifted_map(0.0, 9.0)(p),
        certified_l_bound(p, sigma=SIGMA, radius_map=shifted_map(0.0, 9.0)),
    ):
        assert radius[0] == 0
        assert radius[1] > 0


def test_l_bound_of_rank_k() -> None:
    p = np.array([0.05, 0.5, 0.15, 0.3])
    assert l_bound(p, sigma=SIGMA, rank=2) == pytest.approx(SIGMA * np.sqrt(np.pi / 2) * 0.15, rel=1e-5)
    with pytest.raises(ValueError, match="rank: expected 1 to 3 for 4 classes, got 4"):
        l_bound(p, sigma=SIGMA, rank=4)


def test_certified_radius_is_the_step_that_the_score_reaches_and_above_its_l_bound() -> None:
    p = softmax(np.random.default_rng(0).standard_normal((1000, 10)) * 6)
    radius_map = shifted_map(0.3, 2.0)
    radius = radius_map(p)
    expected = SIGMA * np.clip(top_score(p) - 0.3, 0, 2.0)
    np.testing.assert_allclose(radius, expected, atol=SIGMA / 100 + 1e-7)
    assert (radius <= expected + 1e-7).all()
    assert radius.max() == pytest.approx(2 * SIGMA)
    assert (certified_l_bound(p, sigma=SIGMA, radius_map=radius_map) <= radius).all()
    assert (certified_l_bound(p, sigma=SIGMA, radius_map=radius_map)[radius > 0] > 0).all()


def test_no_score_makes_up_for_a_top_class_below_one_half() -> None:
    weights = ((0.0,) * 8, (1.0,) * 8, (0.0,) * 8)  # the less certain, the higher
    radius_map = RadiusMap(weights, (-1.0,), (0.5,))
    p = np.array([[0.4, 0.35, 0.25], [0.5, 0.5, 0.0], [0.6, 0.3, 0.1], [np.nan, 0.5, 0.5]])
    assert radius_map(p).tolist() == [0, 0, 0.5, 0]
    assert RadiusMap(weights, (), ())(p).tolist() == [0, 0, 0, 0]
