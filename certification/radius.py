"""Closed-form certificates of one probability vector: L-bound, nominal radius, certified radius.

Inputs are probabilities p, float32 or float64, shape [..., K], K ≥ 2. Radii are float32, in L2 on pixels in [0,1], and
rounded down: no result is above its exact value. A vector that holds a NaN, an infinity or a value outside [0,1] gets
radius 0. Write p₍₁₎ ≥ p₍₂₎ ≥ … for the sorted probabilities and q = p₍₂₎ + p₍₃₎ + … for the tail. Where p₍₁₎ > ½ the
tail stands for 1 − p₍₁₎, which in float32 would lose every digit as p₍₁₎ → 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, ndtri

from heatserve.certification.quantile import RESIDUES, fractions

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_TINY = float(np.finfo(np.float32).tiny)  # a tail of 0 counts as this: p₍₁₎ = 1 has a large, finite radius
_SHRINK = 1 - 2.0**-20  # more than float64 can lose on the way, less than anyone can see
_SUM_TOLERANCE = 1e-3  # float32 softmax over 1000 classes is off by 1e-6; a vector of scores is off by far more


def top_score(probabilities: FloatArray) -> Float64Array:
    """Φ⁻¹(p₍₁₎), float64 [...]: −Φ⁻¹(q) where p₍₁₎ > ½. NaN where the vector is invalid.

    σ times this is the radius that Certify (Cohen et al. 2019, Theorem 1 with p̄_B = 1 − p_A) gives for p_A = p₍₁₎.
    """
    p = _descending(probabilities)
    top, tail = p[..., 0], np.maximum(p[..., 1:].sum(-1), _TINY)
    return np.asarray(np.where(tail < 0.5, -ndtri(np.minimum(tail, 0.5)), ndtri(np.minimum(top, 0.5))))


def l_bound(probabilities: FloatArray, *, sigma: float, rank: int = 1) -> Float32Array:
    """L-bound of Theorem 3: σ·√(π/2)·(p₍ₖ₎ − p₍ₖ₊₁₎), k = `rank`.

    If p is the Gaussian average, at noise σ, of a classifier with values in [0,1], no perturbation of a smaller L2 norm
    changes which of its components are the k largest.

    Args:
        probabilities: p, [..., K].
        sigma: standard deviation σ of the smoothing noise, on the [0,1] pixel scale.
        rank: k, from 1 to K − 1.

    Returns:
        float32 [...], never above the nominal radius for rank 1.

    Raises:
        ValueError: rank outside 1 … K − 1, or K < 2.
    """
    p = _descending(probabilities)
    if not 1 <= rank < p.shape[-1]:
        raise ValueError(f"rank: expected 1 to {p.shape[-1] - 1} for {p.shape[-1]} classes, got {rank}")
    upper = p[..., rank - 1]
    if rank == 1:
        tail = p[..., 1:].sum(-1)
        upper = np.where(tail < 0.5, 1 - tail, upper)
    return _round_down(sigma * np.sqrt(np.pi / 2) * (upper - p[..., rank]))


def nominal_radius(probabilities: FloatArray, *, sigma: float) -> Float32Array:
    """σ/2·(Φ⁻¹(p₍₁₎) − Φ⁻¹(p₍₂₎)): Cohen et al. (2019), Theorem 1, as if p were the exact Gaussian average.

    It holds nothing back for the distance between p and that average: show it for comparison, never as a promise.
    """
    runner_up = np.clip(_descending(probabilities)[..., 1], _TINY, 0.5)
    return _round_down(sigma / 2 * (top_score(probabilities) - ndtri(runner_up)))


PLAIN_WEIGHTS = np.stack([RESIDUES, -RESIDUES, 0 * RESIDUES])
"""Weights of a score, [3, 8]: with these it is Φ⁻¹(p₍₁₎), uncorrected."""


def score_fractions(probabilities: FloatArray) -> Float64Array:
    """What a score is a weighted sum of: `quantile.fractions` of the tails q, p₍₁₎ and p₍₂₎, float64 [..., 3, 8].

    Each tail is clipped to ½, where its fractions are 0. NaN where the vector is invalid.
    """
    p = _descending(probabilities)
    tails = np.stack([p[..., 1:].sum(-1), p[..., 0], p[..., 1]], axis=-1)
    return fractions(np.clip(tails, _TINY, 0.5))


@dataclass(frozen=True)
class RadiusMap:
    """From the probabilities of the single pass to a certified radius: a non-decreasing step function of a score.

    The score is the sum of `weights` times `score_fractions`; where it reaches the i-th threshold, and p₍₁₎ > ½, the
    radius is at least the i-th of `radii`. What a radius promises is what `calibration` established for the map.
    """

    weights: tuple[tuple[float, ...], ...]
    """Weights of the fractions of q, p₍₁₎ and p₍₂₎, [3, 8]."""
    thresholds: tuple[float, ...]
    """Thresholds of the score, not decreasing, [J]."""
    radii: tuple[float, ...]
    """Radii in L2 on pixels in [0,1], increasing, float32 numbers, [J]. Where there are none, nothing is certified."""

    def __call__(self, probabilities: FloatArray) -> Float32Array:
        """Certified radius, float32 [...], for probabilities [..., K]; 0 where they are invalid."""
        return self.steps(score_fractions(probabilities))

    def steps(self, fractions: Float64Array) -> Float32Array:
        """Certified radius, float32 [...], for `score_fractions` [..., 3, 8]."""
        score = (fractions * np.array(self.weights)).sum((-2, -1))
        certain = fractions[..., 0, 0] > 0  # q < ½; NaN > 0 is false
        reached = np.searchsorted(np.array(self.thresholds), np.where(certain, score, -np.inf), side="right")
        return np.append(np.float32(0), np.array(self.radii, np.float32))[reached]


def certified_l_bound(probabilities: FloatArray, *, sigma: float, radius_map: RadiusMap) -> Float32Array:
    """Theorem 3 on the calibrated bounds Φ(s) on p₍₁₎ and 1 − Φ(s) on p₍₂₎, s the certified radius / σ.

    Never above the certified radius, σ·s.
    """
    radius = radius_map(probabilities).astype(np.float64)
    return _round_down(sigma * np.sqrt(np.pi / 2) * erf(radius / (sigma * np.sqrt(2))))  # Φ(s) − Φ(−s) = erf(s/√2)


def _descending(probabilities: FloatArray) -> Float64Array:
    """Sorted along the last axis, largest first, as float64; rows that are no probability vectors become NaN."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim == 0 or p.shape[-1] < 2:
        raise ValueError(f"probabilities: expected shape [..., K] with K ≥ 2, got {list(p.shape)}")
    valid = ((p >= 0) & (p <= 1)).all(-1) & (np.abs(p.sum(-1) - 1) <= _SUM_TOLERANCE)
    return np.where(valid[..., None], -np.sort(-p, axis=-1), np.nan)


def _round_down(radius: Float64Array) -> Float32Array:
    exact = np.where(radius > 0, radius * _SHRINK, 0.0)  # NaN > 0 is false
    rounded = exact.astype(np.float32)
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(0)), rounded).astype(np.float32)
