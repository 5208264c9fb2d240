"""How far the single pass may be trusted: one constant, fitted and then tested against Certify.

The served radius is σ·min(Φ⁻¹(p₍₁₎) − t, cap) (`RadiusMap`), where the cap is the most that Certify can prove with its
n votes. An answer with a positive radius *overclaims* when the radius is above what Certify proves at that input, or
the class is not the smoothed classifier's. `calibrate` finds a small shift t for which the share of overclaims among
the answers with a positive radius is at most α, with confidence 1 − δ over the draw of the calibration images: split
fixed-sequence testing with exact binomial p-values.

References:
    Angelopoulos, Bates, Candès, Jordan and Lei (2021), Learn then Test: calibrating predictive algorithms to achieve
    risk control, section 2.3 and appendix (fixed sequence testing on a data-driven sequence).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from certification.binomial import upper_bound
from certification.errors import HeatserveError
from certification.radius import Float64Array, RadiusMap

METHOD = "split fixed-sequence testing (Learn then Test) of a constant shift in Φ⁻¹, exact binomial p-values"
STEP = 0.01
"""Distance of neighbouring shifts in the tested sequence, in units of Φ⁻¹ (a radius of 0.01σ)."""


class CalibrationError(HeatserveError):
    """No shift can be promised from these images."""


@dataclass(frozen=True)
class Reference:
    """The single pass held against Certify, on N images. A subset is `reference[indices]`."""

    score: Float64Array
    """Φ⁻¹(p₍₁₎) of the single pass, [N]."""
    agrees: NDArray[np.bool_]
    """The single pass and Certify name one class, and Certify does not abstain, [N]."""
    proven: Float64Array
    """Radius that Certify proves, divided by σ, [N]; 0 where it abstains."""

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, indices: NDArray[np.int64] | slice) -> Reference:
        return Reference(self.score[indices], self.agrees[indices], self.proven[indices])

    def overclaims(self, radius: Float64Array) -> NDArray[np.bool_]:
        """Which of the radii [N], in units of σ, are positive and not backed by Certify."""
        return (radius > 0) & (~self.agrees | (radius > self.proven))


@dataclass(frozen=True)
class Overclaims:
    """`count` of `positive` answers with a positive radius, out of `images` answers in all, were overclaims."""

    images: int
    positive: int
    count: int
    upper_bound: float
    """Exact upper confidence bound on the rate given a positive radius."""


@dataclass(frozen=True)
class Calibrated:
    """A map that passed, with what was seen on the images that tested it."""

    radius_map: RadiusMap
    seen: Overclaims


def count_overclaims(reference: Reference, radius: Float64Array, *, delta: float) -> Overclaims:
    """Overclaims among radii [N], in units of σ, with their exact (Clopper-Pearson) upper bound at confidence 1 − δ."""
    positive = int((radius > 0).sum())
    count = int(reference.overclaims(radius).sum())
    return Overclaims(len(reference), positive, count, float(upper_bound(count, positive, alpha=delta)))


def images_needed(alpha: float, delta: float) -> int:
    """Fewest answers with a positive radius from which α can be promised at confidence 1 − δ, none overclaiming."""
    return math.ceil(math.log(delta) / math.log1p(-alpha))


def calibrate(fit: Reference, check: Reference, *, cap: float, alpha: float = 0.01, delta: float = 0.05) -> Calibrated:
    """A map that keeps the overclaim rate given a positive radius at most α, with confidence 1 − δ over `check`.

    The sequence of shifts starts where `fit` promises a significant test and goes down in steps of `STEP`. On `check`,
    the shifts are tested in that order, each hypothesis "the rate is above α" at level δ with the binomial p-value
    given the number of positive radii, until the first test that fails. The chance that any accepted shift has a rate
    above α is at most δ: the order was fixed without `check`, so there is no correction to pay.

    Args:
        fit: images that choose where the sequence starts; no promise rests on them.
        check: other images, drawn like the requests to come.
        cap: the largest radius / σ that the reference can prove, as `monte_carlo.largest_provable` says.
        alpha: α, bound on the overclaim rate given a positive radius.
        delta: δ, probability that the bound fails over the draw of `check`.

    Raises:
        CalibrationError: α or δ outside (0, 1), too few images for them (says how many), or no shift passes.
    """
    for name, share in (("alpha", alpha), ("delta", delta)):
        if not 0 < share < 1:
            raise CalibrationError(f"{name}: expected a number between 0 and 1, got {share}")
    needed = images_needed(alpha, delta)
    for name, part in (("fit", fit), ("check", check)):
        if not np.isfinite(part.score).all():
            raise CalibrationError(
                f"{name}: expected finite scores, got {np.sum(~np.isfinite(part.score))} that are not"
            )
    if len(check) < needed:
        raise CalibrationError(
            f"too few calibration images: α = {alpha} at confidence {1 - delta} needs at least {needed} images with a "
            f"positive radius to check on, got {len(check)} images"
        )
    shifts = np.arange(0.0, max(float(fit.score.max(initial=0.0)), STEP), STEP)
    maps = [RadiusMap(float(shift), cap) for shift in shifts]
    start = _promising(_p_values(fit, maps, alpha, scale=len(check) / max(len(fit), 1)), delta)
    passed = _p_values(check, maps[start::-1], alpha) <= delta
    accepted = passed.size if passed.all() else int(passed.argmin())  # up to the first test that fails
    if accepted == 0:
        raise CalibrationError(
            f"no shift keeps overclaims at most {alpha} of the positive radii with confidence {1 - delta}, on "
            f"{len(check)} images: {_best(check, maps)}; use more calibration images, a larger α, or a single "
            f"pass that is closer to its Gaussian average"
        )
    chosen = maps[start - accepted + 1]
    return Calibrated(chosen, count_overclaims(check, chosen(check.score), delta=delta))


def _promising(p_values: Float64Array, delta: float) -> int:
    """Where to start: the middle of the shifts that would pass easily if `check` were like `fit`.

    A larger shift leaves too few positive radii to test, a smaller one too many overclaims.
    """
    easy = np.flatnonzero(p_values <= max(delta / 10, p_values.min()))
    return int(easy[len(easy) // 2])


def _p_values(reference: Reference, maps: list[RadiusMap], alpha: float, *, scale: float = 1.0) -> Float64Array:
    """For each map, of the hypothesis that its overclaim rate is above α; both counts times `scale`."""
    radii = [radius_map(reference.score) for radius_map in maps]
    overclaims = np.array([reference.overclaims(radius).sum() for radius in radii])
    positive = np.array([(radius > 0).sum() for radius in radii])
    return np.asarray(binom.cdf(np.ceil(overclaims * scale), np.floor(positive * scale), alpha))


def _best(reference: Reference, maps: list[RadiusMap]) -> str:
    seen = [count_overclaims(reference, radius_map(reference.score), delta=0.5) for radius_map in maps]
    best = min((s for s in seen if s.positive), key=lambda s: s.count / s.positive, default=seen[0])
    return f"at best {best.count} of {best.positive} overclaim"
