"""Predict and Certify against a linear classifier, whose Gaussian average and radius are known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, norm

from certification.monte_carlo import ABSTAIN, certify, largest_provable, predict

SIGMA = 0.5
DIRECTION = np.array([3.0, 4.0]) / 5


def linear(images: NDArray[np.float32]) -> NDArray[Any]:
    """Two classes; the boundary is the line through 0 across DIRECTION, so the true radius is |DIRECTION·x|."""
    side = images.reshape(len(images), -1) @ DIRECTION
    return np.stack([side, -side], axis=1)


def at(distance: float, count: int = 1) -> NDArray[np.float32]:
    return np.tile((DIRECTION * distance).astype(np.float32).reshape(1, 1, 2), (count, 1, 1, 1))


def test_certified_radii_exceed_the_truth_no_more_often_than_alpha() -> None:
    alpha, runs, distance = 0.05, 1000, 0.4
    certificates = list(certify(linear, at(distance, runs), sigma=SIGMA, n0=10, n=200, alpha=alpha, seed=1))
    claimed = [c for c in certificates if c.label != ABSTAIN]
    wrong = sum(c.label != 0 or c.radius > distance for c in claimed)
    assert len(claimed) > 0.9 * runs
    assert wrong <= binom.ppf(0.999, runs, alpha)
    assert wrong >= binom.ppf(0.001, runs, alpha / 4)  # and the bound is not idle: n = 200 votes make it nearly tight


def test_p_lower_covers_the_true_probability_and_tightens_with_n() -> None:
    truth = norm.cdf(0.4 / SIGMA)
    few, many = (
        next(iter(certify(linear, at(0.4), sigma=SIGMA, n=n, alpha=0.001, seed=0))).p_lower for n in (100, 100_000)
    )
    assert few < many <= truth
    assert many == pytest.approx(truth, abs=0.01)


def test_abstains_on_the_boundary_and_is_finite_when_all_votes_agree() -> None:
    images = np.concatenate([at(0.0), at(100.0)])
    undecided, certain = certify(linear, images, sigma=SIGMA, n=1000, alpha=0.001, seed=0)
    assert (undecided.label, undecided.radius) == (ABSTAIN, 0.0)
    assert certain.label == 0
    assert certain.radius == pytest.approx(SIGMA * largest_provable(n=1000, alpha=0.001))
    assert certain.radius == pytest.approx(SIGMA * norm.ppf(0.001 ** (1 / 1000)))


def test_predict_is_wrong_no_more_often_than_alpha_and_abstains_on_the_boundary() -> None:
    alpha, runs = 0.05, 1000
    answers = np.array(list(predict(linear, at(0.1, runs), sigma=SIGMA, n=100, alpha=alpha, seed=2)))
    assert (answers == 1).sum() <= binom.ppf(0.999, runs, alpha)
    assert (answers == 0).mean() > 0.2
    on_boundary = np.array(list(predict(linear, at(0.0, runs), sigma=SIGMA, n=100, alpha=alpha, seed=3)))
    assert (on_boundary != ABSTAIN).sum() <= binom.ppf(0.999, runs, alpha)


def test_the_same_seed_gives_the_same_answer_whatever_the_batch_size() -> None:
    images = np.concatenate([at(0.1), at(0.2), at(0.3)])
    runs = [list(certify(linear, images, sigma=SIGMA, n=999, seed=5, batch_size=size)) for size in (1, 7, 256, 5000)]
    assert all(run == runs[0] for run in runs)
    other = list(certify(linear, images, sigma=SIGMA, n=999, seed=6))
    assert other != runs[0]


@pytest.mark.parametrize("arguments", [{"sigma": 0.0}, {"n": 0}, {"batch_size": 0}])
def test_refuses_what_means_nothing(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected sigma > 0"):
        list(certify(linear, at(1.0), **{"sigma": SIGMA, **arguments}))
