"""The guard: images like the calibration's are refused as seldom as it says, others often."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.datasets import load_digits

from heatserve.certification.errors import HeatserveError
from heatserve.certification.guard import Guard, fit_guard, statistics

DIGITS = np.random.default_rng(0).permutation(load_digits().images.astype(np.float32)[:, None] / 16)
FITTED, OTHERS = DIGITS[:400], DIGITS[400:]
GUARD = fit_guard(FITTED)


def smooth(count: int, rng: np.random.Generator, shape: tuple[int, int, int] = (3, 5, 4)) -> NDArray[np.float32]:
    """Images of one hue and brightness each, with some noise."""
    base = rng.beta(2, 2, (count, shape[0], 1, 1))
    return np.clip(base + 0.1 * rng.standard_normal((count, *shape)), 0, 1).astype(np.float32)


@pytest.mark.parametrize(("images", "level", "stated"), [(30, 0.005, 1 / 21), (45, 0.1, 3 / 31), (300, 0.005, 1 / 201)])
def test_exchangeable_images_are_refused_with_at_most_the_stated_probability(
    images: int, level: float, stated: float
) -> None:
    """One new image for each of many guards: the number refused is binomial, with at most the stated probability."""
    rng = np.random.default_rng(images)
    refused = 0
    trials = 200
    for _ in range(trials):
        drawn = smooth(images + 1, rng)
        guard = fit_guard(drawn[:-1], level=level)
        assert guard.level == pytest.approx(stated)
        assert guard.images == images - images // 3
        refused += int(guard.refuses(drawn[-1:])[0])
    assert binom.sf(refused - 1, trials, guard.level) > 1e-3
    assert binom.cdf(refused, trials, guard.level) > 1e-3  # and not much less often: it is not far out of reach


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        (lambda x: 1 - x, 1.0),
        (lambda x: 0.5 + (x - 0.5) / 2, 1.0),
        (lambda x: x / 2, 0.95),
        (lambda x: x.transpose(0, 1, 3, 2), 0.4),
        (lambda x: np.random.default_rng(1).random(x.shape), 0.95),
        (lambda x: np.zeros_like(x), 1.0),
        (lambda x: np.full_like(x, 0.5), 1.0),
        (lambda x: np.ones_like(x), 1.0),
        (lambda x: np.roll(x, 2, axis=3), 0.4),
    ],
    ids=["inverted", "half contrast", "half as bright", "transposed", "noise", "black", "grey", "white", "shifted"],
)
def test_digits_of_another_kind_are_refused(kind: Any, share: float) -> None:
    assert GUARD.refuses(OTHERS).mean() < 0.01
    assert GUARD.refuses(kind(OTHERS).astype(np.float32)).mean() >= share


def test_the_distance_is_that_of_mahalanobis() -> None:
    found = statistics(FITTED[:133])
    covariance = np.cov(found.T, bias=True)
    shrunk = 0.9 * covariance
    np.fill_diagonal(shrunk, np.diag(covariance) + 1e-10)
    apart = statistics(OTHERS[:20]) - found.mean(0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", apart, np.linalg.inv(shrunk), apart))
    np.testing.assert_allclose(GUARD.distance(OTHERS[:20]), expected, rtol=1e-9)


def test_the_statistics_are_means_and_mean_squares() -> None:
    image = np.array([[[[0, 1, 0.5], [0.25, 0.5, 1], [1, 0, 0]]]], np.float32)
    quarters = [(0 + 1 + 0.25 + 0.5) / 4, (1 + 0.5 + 0.5 + 1) / 4, (0.25 + 0.5 + 1 + 0) / 4, (0.5 + 1 + 0 + 0) / 4]
    kept, down = np.array([[0, 1], [0.25, 0.5]]), np.array([[0.25, -0.5], [0.75, -0.5]])
    across, both = np.array([[1, -0.5], [0.25, 0.5]]), np.array([[-0.75, 1], [-1.25, -0.5]])
    squares = [np.square(part).mean() for part in (kept, down, across, both)]
    np.testing.assert_allclose(statistics(image), [[*quarters, *squares]], rtol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_no_image_is_refused(value: float) -> None:
    image = OTHERS[:1].copy()
    image[0, 0, 3, 3] = value
    with np.errstate(invalid="ignore"):
        assert GUARD.refuses(image).tolist() == [True]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (1, 4, 1), (2, 2, 2)])
def test_images_of_few_pixels_have_statistics_as_far_as_they_go(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    guard = fit_guard(rng.uniform(0.4, 0.6, (60, *shape)).astype(np.float32))
    assert len(guard.center) == 2 * shape[0] * 2 ** sum(side > 1 for side in shape[1:])
    assert guard.refuses(np.zeros((1, *shape), np.float32)).all()


def test_statistics_that_never_vary_do_not_break_it() -> None:
    """One channel is black in all images, and two are equal."""
    images = np.concatenate([FITTED, np.zeros_like(FITTED), FITTED], axis=1)
    guard = fit_guard(images)
    new = np.concatenate([OTHERS, np.zeros_like(OTHERS), OTHERS], axis=1)
    assert guard.refuses(new).mean() < 0.02
    coloured = new.copy()
    coloured[:, 1] = 0.01
    assert guard.refuses(coloured).all()
    same = fit_guard(np.full((20, 1, 4, 4), 0.5, np.float32))
    assert same.refuses(np.full((1, 1, 4, 4), 0.5, np.float32)).tolist() == [False]
    assert same.refuses(np.full((1, 1, 4, 4), 0.6, np.float32)).tolist() == [True]


def test_too_few_images_are_told() -> None:
    with pytest.raises(HeatserveError, match=r"images: expected at least 10 .* got 9; use more"):
        fit_guard(FITTED[:9])


def test_pixels_that_are_no_numbers_are_told() -> None:
    images = np.full((20, 1, 8, 8), 0.5, np.float32)
    images[3, 0, 0, 0] = np.nan
    with pytest.raises(HeatserveError, match="images: expected pixels that are numbers, got 1 images with others"):
        fit_guard(images)


def test_images_of_another_shape_are_told() -> None:
    with pytest.raises(ValueError, match=r"images: expected shape \[N, \*\[1, 8, 8\]\], got \[2, 1, 9, 8\]"):
        GUARD.refuses(np.zeros((2, 1, 9, 8), np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"center": GUARD.center[:-1]},
        {"whitening": GUARD.whitening[:-1]},
        {"threshold": float("nan")},
        {"threshold": -1.0},
        {"level": 0.0},
        {"image_shape": (3, 8, 8)},
        {"center": (float("inf"), *GUARD.center[1:])},
    ],
)
def test_a_guard_that_is_none_is_refused(change: dict[str, Any]) -> None:
    assert replace(GUARD) == Guard(**vars(GUARD))
    with pytest.raises(ValueError, match="guard: expected"):
        replace(GUARD, **change)
