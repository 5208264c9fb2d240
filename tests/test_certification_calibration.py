"""The promise of a calibration, on synthetic problems whose overclaim rate is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, norm

from certification.binomial import lower_bound, upper_bound
from certification.calibration import CalibrationError, Reference, calibrate, count_overclaims, images_needed
from certification.radius import RadiusMap

CAP = 3.0


def synthetic(count: int, rng: np.random.Generator) -> Reference:
    """Proven radii uniform on [0, 2]; the single pass is off by a Gaussian of deviation 0.3, the class by 2 %."""
    proven = rng.uniform(0, 2, count)
    return Reference(proven + 0.3 * rng.standard_normal(count), rng.random(count) > 0.02, proven)


def true_rate(radius_map: RadiusMap) -> float:
    """Overclaim rate given a positive radius, for `synthetic`: by quadrature over the proven radius."""
    proven = (np.arange(20_000) + 0.5) / 10_000
    positive = norm.sf((radius_map.shift - proven) / 0.3)
    overclaim = norm.sf(radius_map.shift / 0.3)  # score − shift > proven ≥ 0
    return float((0.98 * overclaim + 0.02 * positive).mean() / positive.mean())


def test_the_bound_holds_with_the_stated_confidence() -> None:
    alpha, delta, problems = 0.1, 0.1, 400
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(problems):
        result = calibrate(synthetic(100, rng), synthetic(400, rng), cap=CAP, alpha=alpha, delta=delta)
        broken += true_rate(result.radius_map) > alpha
        assert result.seen.count / result.seen.positive <= alpha
    assert broken <= binom.ppf(0.999, problems, delta)
    assert broken > 0  # the shift is as small as the confidence allows, not smaller


def test_more_images_give_a_smaller_shift() -> None:
    rng = np.random.default_rng(1)
    few, many = (calibrate(synthetic(n, rng), synthetic(n, rng), cap=CAP, alpha=0.1).radius_map for n in (200, 20_000))
    assert many.shift < few.shift


def test_too_few_images_says_how_many_are_needed() -> None:
    assert images_needed(0.01, 0.05) == 299
    rng = np.random.default_rng(2)
    with pytest.raises(CalibrationError, match=r"needs at least 299 images .* got 298 images"):
        calibrate(synthetic(100, rng), synthetic(298, rng), cap=CAP, alpha=0.01)


@pytest.mark.parametrize("share", [{"alpha": 0.0}, {"alpha": 1.0}, {"delta": 0.0}, {"delta": 1.5}])
def test_shares_outside_0_and_1_are_refused(share: dict[str, float]) -> None:
    part = synthetic(400, np.random.default_rng(5))
    with pytest.raises(CalibrationError, match=f"{next(iter(share))}: expected a number between 0 and 1"):
        calibrate(part, part, cap=CAP, **share)


def test_a_hopeless_single_pass_is_refused() -> None:
    rng = np.random.default_rng(3)
    wrong_class = Reference(rng.uniform(0, 2, 500), np.zeros(500, bool), np.zeros(500))
    with pytest.raises(CalibrationError, match="no shift keeps overclaims"):
        calibrate(wrong_class[:200], wrong_class[200:], cap=CAP, alpha=0.1)


def test_scores_that_are_not_finite_are_refused() -> None:
    rng = np.random.default_rng(4)
    broken = synthetic(400, rng)
    broken.score[3] = np.nan
    with pytest.raises(CalibrationError, match="check: expected finite scores, got 1"):
        calibrate(synthetic(100, rng), broken, cap=CAP, alpha=0.1)


def test_what_counts_as_an_overclaim() -> None:
    reference = Reference(
        np.array([1.0, 1.0, 1.0, 1.0]), np.array([True, True, False, False]), np.array([2, 0.5, 2, 0])
    )
    radius = np.array([1.0, 1.0, 1.0, 0.0])  # backed; too large; another class; nothing claimed
    seen = count_overclaims(reference, radius, delta=0.05)
    assert (seen.images, seen.positive, seen.count) == (4, 3, 2)
    assert seen.upper_bound == pytest.approx(float(upper_bound(2, 3, alpha=0.05)))


@pytest.mark.parametrize("probability", [0.001, 0.3, 0.97])
def test_clopper_pearson_covers(probability: float) -> None:
    trials, alpha = 50, 0.05
    outcomes: NDArray[np.int64] = np.arange(trials + 1)
    weights = binom.pmf(outcomes, trials, probability)
    assert weights[lower_bound(outcomes, trials, alpha=alpha) > probability].sum() <= alpha
    assert weights[upper_bound(outcomes, trials, alpha=alpha) < probability].sum() <= alpha
    assert lower_bound(0, trials, alpha=alpha) == 0
    assert upper_bound(trials, trials, alpha=alpha) == 1
    assert upper_bound(0, 0, alpha=alpha) == 1
