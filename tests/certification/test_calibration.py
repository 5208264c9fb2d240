"""The promise of a calibration, on synthetic problems whose overclaim rate is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta, binom, norm

from heatserve.certification.binomial import at_most, lower_bound, upper_bound
from heatserve.certification.calibration import (
    CalibrationError,
    Reference,
    calibrate,
    count_overclaims,
    images_needed,
    radius_grid,
    servable,
)
from heatserve.certification.radius import RadiusMap

RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


def synthetic(count: int, rng: np.random.Generator, *, noise: float = 0.3) -> Reference:
    """Proven radii uniform on [0, 2], σ = 1; Φ⁻¹(p₍₁₎) is off by a Gaussian, the class by 2 %."""
    proven = rng.uniform(0, 2, count)
    top = norm.cdf(np.maximum(proven + noise * rng.standard_normal(count), 0.01))
    runner_up = (1 - top) * rng.uniform(0.5, 1, count)
    return Reference(np.stack([top, runner_up, 1 - top - runner_up], 1), rng.random(count) > 0.02, proven)


POPULATION = synthetic(50_000, np.random.default_rng(99))


def rate(radius_map: RadiusMap, *, marginal: bool = False) -> float:
    """Overclaims among the positive radii, or all, of `POPULATION`."""
    seen = count_overclaims(POPULATION, radius_map.steps(POPULATION.fractions), delta=0.5)
    return seen.count / (seen.images if marginal else seen.positive)


def usefulness(radius_map: RadiusMap, radius: float) -> float:
    """Share of `POPULATION` that is served a backed radius of at least `radius`."""
    served = radius_map.steps(POPULATION.fractions)
    return float(((served >= radius) & ~POPULATION.overclaims(served)).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("marginal", "problems"), [(False, 400), (True, 200)])
def test_the_bound_holds_with_the_stated_confidence(marginal: bool, problems: int) -> None:
    """An exact binomial test: 400 problems show a share twice what is stated in more than 99 of 100 cases."""
    alpha, delta = 0.1, 0.1
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(problems):
        fit, check = synthetic(100, rng), synthetic(300, rng)
        try:
            result = calibrate(fit, check, radii=RADII[1::2], alpha=alpha, delta=delta, marginal=marginal)
        except CalibrationError:  # nothing is promised
            continue
        rates.append(rate(result.radius_map, marginal=marginal))
        assert result.seen.count / (result.seen.images if marginal else result.seen.positive) <= alpha
    assert len(rates) > 0.9 * problems
    broken = (np.array(rates) > alpha).sum()
    assert broken <= binom.ppf(0.999, problems, delta)
    assert broken > 0  # the radii are as large as the confidence allows, not smaller


def test_more_images_give_larger_radii() -> None:
    rng = np.random.default_rng(1)
    few, many = (calibrate(synthetic(n, rng), synthetic(n, rng), radii=RADII, alpha=0.1) for n in (200, 10_000))
    assert usefulness(many.radius_map, 1.0) > usefulness(few.radius_map, 1.0) + 0.02
    assert 0.09 < rate(many.radius_map) <= 0.1


def test_a_target_gets_what_the_other_radii_would_have_got() -> None:
    rng = np.random.default_rng(2)
    fit, check = synthetic(1000, rng), synthetic(3000, rng)
    broad, narrow = (calibrate(fit, check, radii=RADII, alpha=0.05, target=t).radius_map for t in (None, 1.0))
    assert usefulness(narrow, 1.0) > usefulness(broad, 1.0) + 0.02
    assert usefulness(narrow, 1.75) < usefulness(broad, 1.75)
    assert max(rate(broad), rate(narrow)) <= 0.05


def test_what_the_runner_up_tells_is_used() -> None:
    """Here Certify's radius depends on p₍₂₎ too, which a score of p₍₁₎ only does not know."""
    rng = np.random.default_rng(3)

    def two_kinds(count: int) -> Reference:
        plain = synthetic(count, rng, noise=0.1)
        top, ambiguous = plain.probabilities[:, 0], rng.random(count) < 0.5
        runner_up = (1 - top) * np.where(ambiguous, 0.95, 0.55)
        probabilities = np.stack([top, runner_up, 1 - top - runner_up], 1)
        return replace(plain, probabilities=probabilities, proven=plain.proven - 0.4 * ambiguous)

    def blind(reference: Reference) -> Reference:
        top = reference.probabilities[:, 0]
        return replace(reference, probabilities=np.stack([top, 0.7 * (1 - top), 0.3 * (1 - top)], 1))

    fit, check, test = (two_kinds(3000) for _ in range(3))
    knows = calibrate(fit, check, radii=RADII, alpha=0.05).radius_map.steps(test.fractions)
    guesses = calibrate(blind(fit), blind(check), radii=RADII, alpha=0.05).radius_map.steps(blind(test).fractions)
    assert knows.mean() > 1.1 * guesses.mean()
    assert test.overclaims(knows).sum() < 0.06 * (knows > 0).sum()


def test_a_larger_score_never_has_a_smaller_radius() -> None:
    """Even where the expected values ask for it, as at the last of these scores."""
    from heatserve.certification.calibration import _Model  # values that the fit of a real problem hardly gives

    model = _Model(np.zeros((3, 8)), offsets=np.zeros(2), radii=np.array([0.5, 1.0]), scores=np.zeros(1))
    gain = np.array([[-1.0, -1.0], [1.0, 2.0], [2.0, 1.0]])
    found = model._steps(np.array([0.0, 1.0, 2.0]), gain)
    assert (found.thresholds, found.radii) == ((1.0,), (1.0,))


def test_too_few_images_says_how_many_are_needed() -> None:
    assert images_needed(0.01, 0.05) == 299
    rng = np.random.default_rng(2)
    with pytest.raises(CalibrationError, match=r"needs at least 299 images .* got 298 images; .* α of at least 0.011$"):
        calibrate(synthetic(100, rng), synthetic(298, rng), radii=RADII, alpha=0.01)


@pytest.mark.parametrize("share", [{"alpha": 0.0}, {"alpha": 1.0}, {"delta": 0.0}, {"delta": 1.5}])
def test_shares_outside_0_and_1_are_refused(share: dict[str, Any]) -> None:
    part = synthetic(400, np.random.default_rng(5))
    with pytest.raises(CalibrationError, match=f"{next(iter(share))}: expected a number between 0 and 1"):
        calibrate(part, part, radii=RADII, **share)


@pytest.mark.slow
def test_few_images_often_suffice_for_one_radius() -> None:
    """A sequence that began where the images to fit promise the most answers would fail at once, 19 times of 20."""
    rng, refused = np.random.default_rng(0), 0
    for _ in range(60):
        try:
            calibrate(synthetic(133, rng, noise=0.1), synthetic(267, rng, noise=0.1), radii=(0.25,), alpha=0.05)
        except CalibrationError:
            refused += 1
    assert refused <= 40


def test_a_hopeless_single_pass_is_refused() -> None:
    rng = np.random.default_rng(3)
    fit, check = synthetic(200, rng), synthetic(300, rng)
    wrong = replace(fit, agrees=np.zeros(200, bool))
    with pytest.raises(CalibrationError, match="Certify backs the single pass's class on 0 of 200 images"):
        calibrate(wrong, check, radii=RADII, alpha=0.1)
    with pytest.raises(CalibrationError, match=r"no map keeps overclaims at most 0\.1"):
        calibrate(fit, replace(check, agrees=np.zeros(300, bool)), radii=RADII, alpha=0.1)


def test_what_is_no_probability_vector_is_refused() -> None:
    rng = np.random.default_rng(4)
    broken = synthetic(400, rng)
    broken.probabilities[3] = np.nan
    with pytest.raises(CalibrationError, match="check: expected probabilities, got 1 rows that are none"):
        calibrate(synthetic(100, rng), broken, radii=RADII, alpha=0.1)


def test_served_radii_are_float32_numbers_that_reach_what_they_are_named() -> None:
    radii = radius_grid(sigma=0.25, cap=0.56, target=0.33)
    assert len(radii) == 23
    assert np.allclose(radii, sorted([*np.arange(1, 23) * 0.025, 0.33]))
    assert all(float(np.float32(radius)) == radius for radius in radii)
    assert 0.05 <= radii[1] < 0.05 + 1e-8
    assert radii[9] == 0.25
    assert radius_grid(sigma=0.25, cap=0.56, target=0.6)[-1] < 0.56


@pytest.mark.parametrize("radius", [0.1, 0.25, 0.3, 1.7])
def test_a_radius_by_itself_is_rounded_as_those_of_the_grid(radius: float) -> None:
    assert float(servable(radius)) in radius_grid(sigma=0.25, cap=4.0, target=radius)


def test_what_counts_as_an_overclaim() -> None:
    agrees = np.array([True, True, True, False, False])
    reference = Reference(np.full((5, 2), 0.5), agrees, np.array([2, 1, 0.5, 2, 0]))
    radius = np.array([1.0, 1.0, 1.0, 1.0, 0.0])  # backed; just backed; too large; another class; nothing claimed
    assert reference.overclaims(radius).tolist() == [False, False, True, True, False]
    seen = count_overclaims(reference, radius, delta=0.05)
    assert (seen.images, seen.positive, seen.count) == (5, 4, 2)
    assert seen.upper_bound == pytest.approx(float(upper_bound(2, 4, alpha=0.05)))


@pytest.mark.parametrize("probability", [0.001, 0.5, 0.97])
def test_the_binomial_distribution_and_its_bounds_are_those_of_scipy_stats(probability: float) -> None:
    successes, trials = np.arange(61), np.full(61, 60)
    assert at_most(successes, trials, probability) == pytest.approx(binom.cdf(successes, trials, probability))
    assert at_most([0, 4], [0, 3], probability).tolist() == [1, 1]
    exact = beta.ppf(0.001, np.maximum(successes, 1), trials - successes + 1)[1:]
    assert lower_bound(successes, trials, alpha=0.001)[1:] == pytest.approx(exact, rel=1e-9)


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
