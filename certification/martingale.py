"""Evidence about the probability of a vote that may be looked at after every vote: a mixture martingale.

Against the hypothesis P(success) ≤ p, bet on every q > p at once, by a prior π ∝ q^(a−1)(1 − q)^(b−1) on (p, 1],
Jeffreys' a = b = ½:

    M = ∫ (q/p)^s ((1 − q)/(1 − p))^f π(q) dq ,      s successes and f failures so far.

For each q > p the likelihood ratio is a nonnegative supermartingale wherever P(success) ≤ p, hence so is M, and by
Ville's inequality it ever reaches 1/α with probability at most α. With beta functions, M has a closed form.

References:
    Ville (1939), Étude critique de la notion de collectif.
    Robbins (1970), Statistical methods related to the law of the iterated logarithm, Ann. Math. Statist. 41.
    Voráček (2024), Treatment of statistical estimation problems in randomized smoothing for adversarial robustness,
        NeurIPS, arXiv 2406.17830: confidence sequences that decide whether a radius is certified.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincc, betaln, xlog1py, xlogy

from heatserve.certification.radius import Float64Array

JEFFREYS = (0.5, 0.5)
"""a and b of the prior."""


def evidence_above(successes: ArrayLike, failures: ArrayLike, *, p: float) -> Float64Array:
    """log M against the hypothesis P(success) ≤ p, 0 < p < 1; shapes broadcast.

    If the hypothesis is true, it is at any time at least log(1/α) with probability at most α. It is −∞ where float64
    cannot tell: where the prior has no mass above p.
    """
    s, f = np.asarray(successes, dtype=float), np.asarray(failures, dtype=float)
    before = float(_log_mass(*JEFFREYS, p))
    if not math.isfinite(before):
        return np.full(np.broadcast_shapes(s.shape, f.shape), -np.inf)
    return np.asarray(_log_mass(s + JEFFREYS[0], f + JEFFREYS[1], p) - before - xlogy(s, p) - xlog1py(f, -p))


def evidence_below(successes: ArrayLike, failures: ArrayLike, *, p: float) -> Float64Array:
    """log M against the hypothesis P(success) ≥ p, otherwise as `evidence_above`."""
    return evidence_above(failures, successes, p=1 - p)


def _log_mass(a: ArrayLike, b: ArrayLike, p: float) -> Float64Array:
    """log ∫ q^(a−1) (1 − q)^(b−1) dq over (p, 1]; −∞ where float64 has no number that small."""
    with np.errstate(divide="ignore"):
        return np.asarray(betaln(a, b) + np.log(betaincc(a, b, p)))
