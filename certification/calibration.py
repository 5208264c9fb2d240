"""How far the single pass may be trusted: a map from its probabilities to a radius, fitted, then tested.

An answer with a positive radius *overclaims* when the radius is above what Certify proves at that input, or the class
is not the smoothed classifier's. `calibrate` looks for the most useful `RadiusMap` whose share of overclaims among the
answers with a positive radius is at most α, with confidence 1 − δ over the draw of the calibration images:

1. On the images `fit`, a score and the probability that Certify proves each of a grid of radii at that score: ordinal
   logistic regression (proportional odds) on the fractions of the tails q, p₍₁₎, p₍₂₎.
2. From these, one map for each price λ of an overclaim: at each score the radius with the largest expected value.
3. On the images `check`, the maps are tested in the order of falling prices, beginning at one that `fit` finds
   promising, until the first that fails: split fixed-sequence testing with exact binomial p-values. Whatever steps 1
   and 2 did, the promise rests on this step. No bound on the rate of the accepted map can be counted on the images of
   `check` afterwards, since they chose it: what is known is that it is at most α.

References:
    McCullagh (1980), Regression models for ordinal data.
    Angelopoulos, Bates, Candès, Jordan and Lei (2021), Learn then Test: calibrating predictive algorithms to achieve
    risk control, section 2.3 and appendix (fixed sequence testing on a data-driven sequence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from heatserve.certification.binomial import at_most, upper_bound
from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import PLAIN_WEIGHTS, Float64Array, FloatArray, RadiusMap, score_fractions

METHOD = "split fixed-sequence testing (Learn then Test) of step functions of a fitted score, exact binomial p-values"
_PRICES = np.geomspace(100, 0.01, 80)
"""λ: what an overclaim costs, where a backed answer is worth at most 1."""
_RIDGE = 10.0
"""Penalty on the standardised correction of Φ⁻¹(p₍₁₎) by the other fractions: with few images there is little of it."""
_FEWEST = 5
"""A radius that Certify proved for fewer of the images `fit` is not offered."""


class CalibrationError(HeatserveError):
    """No map can be promised from these images."""


@dataclass(frozen=True)
class Reference:
    """The single pass compared with Certify on N images. A subset is `reference[indices]`."""

    probabilities: Float64Array
    """Probabilities of the single pass, [N, K]."""
    agrees: NDArray[np.bool_]
    """The single pass and Certify name one class, and Certify does not abstain, [N]."""
    proven: Float64Array
    """Radius that Certify proves (L2, pixels in [0,1]), [N]; 0 where it abstains."""

    def __len__(self) -> int:
        return len(self.proven)

    def __getitem__(self, indices: NDArray[np.int64] | slice) -> Reference:
        return Reference(self.probabilities[indices], self.agrees[indices], self.proven[indices])

    @cached_property
    def fractions(self) -> Float64Array:
        """`score_fractions`, [N, 3, 8]."""
        return score_fractions(self.probabilities)

    def backs(self, radius: Float64Array | float) -> NDArray[np.bool_]:
        """Where Certify proves the single pass's class within `radius`, [N]."""
        return self.agrees & (radius <= self.proven)

    def overclaims(self, radius: FloatArray) -> NDArray[np.bool_]:
        """Which of the radii [N] are positive and not backed by Certify."""
        return (radius > 0) & ~self.backs(radius.astype(np.float64))


@dataclass(frozen=True)
class Counted:
    """`count` of `positive` answers with a positive radius, out of `images` answers in all, were overclaims."""

    images: int
    positive: int
    count: int

    def supports(self, alpha: float, delta: float) -> bool:
        """Whether the exact binomial test rejects "the rate given a positive radius is above α" at level δ."""
        return bool(at_most(self.count, self.positive, alpha) <= delta)


@dataclass(frozen=True)
class Overclaims(Counted):
    """Such counts on images that chose neither the network nor the map."""

    upper_bound: float
    """Exact upper confidence bound on the rate given a positive radius."""


@dataclass(frozen=True)
class Calibrated:
    """A map that passed, with what was seen on the images that tested it.

    These images chose the map. So no bound follows from `seen` by itself: what is known of the map's rate is that it is
    at most α, with confidence 1 − δ.
    """

    radius_map: RadiusMap
    seen: Counted


def counted(reference: Reference, radius: FloatArray) -> Counted:
    """Overclaims among radii [N]."""
    return Counted(len(reference), int((radius > 0).sum()), int(reference.overclaims(radius).sum()))


def count_overclaims(reference: Reference, radius: FloatArray, *, delta: float) -> Overclaims:
    """Overclaims among radii [N], with their exact (Clopper-Pearson) upper bound at confidence 1 − δ.

    The bound is exact where what answers was chosen without these images; among answers of a map that they chose, it is
    none.
    """
    seen = counted(reference, radius)
    return Overclaims(
        seen.images, seen.positive, seen.count, float(upper_bound(seen.count, seen.positive, alpha=delta))
    )


def images_needed(alpha: float, delta: float) -> int:
    """Fewest answers with a positive radius for a test of α at level δ to pass, none overclaiming."""
    return math.ceil(math.log(delta) / math.log1p(-alpha))


def calibrate(
    fit: Reference,
    check: Reference,
    *,
    radii: Sequence[float],
    alpha: float = 0.01,
    delta: float = 0.05,
    target: float | None = None,
    marginal: bool = False,
) -> Calibrated:
    """A map that keeps the overclaim rate given a positive radius at most α, with confidence 1 − δ over `check`.

    The chance that any map accepted by the tests on `check` has a rate above α is at most δ: their order was fixed
    without `check`, so there is no correction to pay. That is so for one attempt. Several on the same images share δ:
    `heatserve.export.calibration.attempts` keeps account of them.

    Args:
        fit: images that choose the maps and their order; no promise rests on them.
        check: other images, drawn like the requests to come.
        radii: that may be served, increasing (L2, pixels in [0,1]); `radius_grid` makes them.
        alpha: α, bound on the overclaim rate.
        delta: δ, the level of the tests: the probability that the bound fails over the draw of `check`.
        target: a radius that matters nine times as much as all others together; None: the larger, the better.
        marginal: bound the overclaims among all answers, which is weaker: abstaining always meets it.

    Raises:
        CalibrationError: α or δ outside (0, 1), too few images for them (says how many), or no map passes.
    """
    require_images(len(check), alpha=alpha, delta=delta)
    maps = candidate_maps(fit, radii=radii, alpha=alpha, target=target, marginal=marginal)
    return fixed_sequence_test(maps, fit, check, alpha=alpha, delta=delta, marginal=marginal)


def candidate_maps(
    fit: Reference, *, radii: Sequence[float], alpha: float, target: float | None = None, marginal: bool = False
) -> list[RadiusMap]:
    """The maps that `fixed_sequence_test` is to test, from few expected overclaims to many; see `calibrate`.

    Raises:
        CalibrationError: Certify backs too few of the images.
    """
    _check_probabilities("fit", fit)
    model = _Model.fitted(fit, radii)
    return model.maps(_values(model.radii, target), 0.0 if marginal else alpha)


def fixed_sequence_test(
    maps: Sequence[RadiusMap], fit: Reference, check: Reference, *, alpha: float, delta: float, marginal: bool = False
) -> Calibrated:
    """The last map that passes, of a sequence from few expected overclaims to many; see `calibrate`.

    Each hypothesis "its rate of overclaims is above α" is tested on `check` at level δ, beginning at a map that `fit`
    finds promising, until the first test that fails.

    Raises:
        CalibrationError: that map does not pass.
    """
    _check_probabilities("check", check)
    needed = images_needed(alpha, delta) * len(fit) / len(check)
    start = _promising(*_counts(fit, maps, marginal=marginal), needed, alpha)
    overclaims, trials = _counts(check, maps[start:], marginal=marginal)
    passed = at_most(overclaims, trials, alpha) <= delta
    accepted = passed.size if passed.all() else int(passed.argmin())  # up to the first test that fails
    if accepted == 0:
        raise CalibrationError(
            f"no map keeps overclaims at most {alpha:g} of the positive radii, tested at level {delta:g} on "
            f"{len(check)} images: of the first that was tested, {overclaims[0]} of {trials[0]} overclaim; use more "
            f"calibration images, a larger α, or a single pass that is closer to its Gaussian average"
        )
    chosen = maps[start + accepted - 1]
    return Calibrated(chosen, counted(check, chosen.steps(check.fractions)))


def radius_grid(*, sigma: float, cap: float, target: float | None = None) -> tuple[float, ...]:
    """Radii to be served: every tenth of σ up to `cap`, and the target; float32 numbers, rounded up.

    Args:
        sigma: σ, pixels in [0,1].
        cap: the largest radius that the reference can prove (L2, pixels in [0,1]).
        target: see `calibrate`; above the cap it cannot be served.
    """
    wanted = np.append(np.arange(1, math.floor(10 * cap / sigma) + 1) * sigma / 10, [] if target is None else target)
    return tuple(radius for radius in np.unique(servable(wanted)).tolist() if radius <= cap)


def servable(radius: Float64Array | float) -> Float64Array:
    """The float32 numbers that a graph answers for radii, rounded up, so that they are at least what was asked for."""
    wanted = np.asarray(radius, dtype=np.float64)
    nearest = wanted.astype(np.float32)
    up = np.nextafter(nearest, np.float32(np.inf))
    return np.where(nearest < wanted - 1e-12, up, nearest).astype(np.float64)


@dataclass(frozen=True)
class _Model:
    """P(Certify backs radius rⱼ) = expit(score − bⱼ)."""

    weights: Float64Array
    """Weights of the score, [3, 8]."""
    offsets: Float64Array
    """bⱼ, [J]."""
    radii: Float64Array
    """rⱼ, [J]."""
    scores: Float64Array
    """Those of the images that it was fitted on, [N]."""

    @classmethod
    def fitted(cls, fit: Reference, radii: Sequence[float]) -> _Model:
        backed = np.array([fit.backs(radius) for radius in radii]).T.reshape(len(fit), -1)  # [N, J]
        offered = backed.sum(0) >= _FEWEST
        if not offered.any():
            raise CalibrationError(
                f"fit: Certify backs the single pass's class on {int(fit.agrees.sum())} of {len(fit)} images, and no "
                f"radius on {_FEWEST} of them; use more calibration images, or a single pass that is closer to its "
                f"Gaussian average"
            )
        weights, offsets = _proportional_odds(fit.fractions, backed[:, offered])
        scores = (fit.fractions * weights).sum((1, 2))
        return cls(weights, offsets, np.asarray(radii, dtype=np.float64)[offered], scores)

    def maps(self, values: Float64Array, alpha: float) -> list[RadiusMap]:
        """For each price λ, at each score the radius with the largest expected value.

        A positive radius earns λ·α, which is what it adds to the overclaims that α allows.
        """
        scores = np.linspace(self.scores.min() - 1, self.scores.max() + 1, 1001)
        backed = expit(scores[:, None] - self.offsets)
        return [self._steps(scores, values * backed - price * (1 - backed - alpha)) for price in _PRICES]

    def _steps(self, scores: Float64Array, gain: Float64Array) -> RadiusMap:
        """The map that serves the radius of the largest gain [S, J] at each of rising scores [S], or 0."""
        best = np.column_stack([np.zeros(len(scores)), gain]).argmax(1)
        best = np.maximum.accumulate(best)  # a larger score, at least as large a radius
        served, first = np.unique(best, return_index=True)
        steps = [(float(scores[i]), float(self.radii[j - 1])) for j, i in zip(served, first, strict=True) if j > 0]
        return RadiusMap(
            weights=tuple(tuple(map(float, row)) for row in self.weights),
            thresholds=tuple(threshold for threshold, _ in steps),
            radii=tuple(radius for _, radius in steps),
        )


def _proportional_odds(fractions: Float64Array, backed: NDArray[np.bool_]) -> tuple[Float64Array, Float64Array]:
    """Weights [3, 8] and offsets [J] of P(backedⱼ) = expit(score − bⱼ), by penalised maximum likelihood.

    The score is a multiple of Φ⁻¹(p₍₁₎) plus a correction by the standardised fractions, on which the penalty is.
    """
    flat = fractions.reshape(len(fractions), -1)
    scale = flat.std(0) + 1e-6
    features = np.column_stack([flat @ PLAIN_WEIGHTS.ravel(), (flat - flat.mean(0)) / scale])
    levels, size = backed.shape[1], features.shape[1]

    def loss(x: Float64Array) -> tuple[float, Float64Array]:
        weights, offsets = x[:size], x[size:]
        margin = np.where(backed, 1, -1) * ((features @ weights)[:, None] - offsets)
        slope = np.where(backed, -1, 1) * expit(-margin) / levels
        penalty = _RIDGE / 2 * np.square(weights[1:]).sum() + 1e-3 * np.square(x).sum()
        gradient = np.concatenate([features.T @ slope.sum(1), -slope.sum(0)]) + 2e-3 * x
        gradient[1:size] += _RIDGE * weights[1:]
        return float(np.logaddexp(0, -margin).sum() / levels + penalty), gradient

    start = np.concatenate([[1.0], np.zeros(size - 1), np.linspace(0, 2, levels)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    weights = found[0] * PLAIN_WEIGHTS.ravel() + found[1:size] / scale
    return weights.reshape(3, 8), found[size:] + found[1:size] @ (flat.mean(0) / scale)


def _values(radii: Float64Array, target: float | None) -> Float64Array:
    """What it is worth to serve each radius, backed: at most 1."""
    values = radii / radii.max()
    return np.asarray(values if target is None else 0.1 * values + 0.9 * (radii >= target))


def _counts(
    reference: Reference, maps: Sequence[RadiusMap], *, marginal: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each map, the overclaims, and the answers among which they are counted."""
    radii = [radius_map.steps(reference.fractions) for radius_map in maps]
    overclaims = np.array([reference.overclaims(radius).sum() for radius in radii])
    return overclaims, np.array([len(radius) if marginal else (radius > 0).sum() for radius in radii])


def _promising(overclaims: NDArray[np.int64], trials: NDArray[np.int64], needed: float, alpha: float) -> int:
    """Which map to test first, from what was counted on the images `fit`.

    The one that would pass most easily with more overclaims than `fit` shows, since the maps were fitted on it; or the
    first, of the highest price, that has four times the answers that the test needs, if that is an earlier one.

    Args:
        needed: answers that the test needs if none overclaims, scaled to as many images as `fit` has.
    """
    easiest = int(np.argmin(at_most(np.ceil(overclaims + np.sqrt(overclaims) + 1), trials, alpha)))
    ample = np.flatnonzero(trials >= 4 * needed)
    return min(easiest, int(ample[0])) if ample.size else easiest


def require_shares(**shares: float) -> None:
    """Refuse an α, a δ or a level, by name, that is none.

    Raises:
        CalibrationError: one of them is outside (0, 1).
    """
    for name, share in shares.items():
        if not 0 < share < 1:
            raise CalibrationError(f"{name}: expected a number between 0 and 1, got {share}")


def require_images(images: int, *, alpha: float, delta: float) -> None:
    """Whether a test of α at level δ could pass on so many images to check on, none overclaiming.

    Raises:
        CalibrationError: α or δ outside (0, 1), or it could not (says how many are needed).
    """
    require_shares(alpha=alpha, delta=delta)
    needed = images_needed(alpha, delta)
    if images < needed:
        least = math.ceil(-1000 * math.expm1(math.log(delta) / images)) / 1000 if images else 1.0
        larger = f", or an α of at least {least:g}" if least < 1 else ""
        raise CalibrationError(
            f"too few calibration images: a test of α = {alpha:g} at level {delta:g} needs at least {needed} images "
            f"with a positive radius to check on, got {images} images; use more calibration images{larger}"
        )


def _check_probabilities(name: str, part: Reference) -> None:
    broken = ~np.isfinite(part.fractions).all((1, 2))
    if broken.any():
        raise CalibrationError(f"{name}: expected probabilities, got {broken.sum()} rows that are none")
