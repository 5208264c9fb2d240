"""The binomial distribution, and exact confidence bounds on a proportion.

They need no more of scipy than `scipy.special`, since every process of a server imports this.

References:
    Clopper and Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincc, betaincinv


def lower_bound(successes: ArrayLike, trials: ArrayLike, *, alpha: float) -> NDArray[np.float64]:
    """Clopper-Pearson: at most the true proportion with probability at least 1 − alpha. Shapes broadcast."""
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    return np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, alpha), 0.0)


def upper_bound(successes: ArrayLike, trials: ArrayLike, *, alpha: float) -> NDArray[np.float64]:
    """Clopper-Pearson: at least the true proportion with probability at least 1 − alpha. 1 where trials is 0."""
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    return np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1), 1 - alpha), 1.0)


def at_most(successes: ArrayLike, trials: ArrayLike, p: float) -> NDArray[np.float64]:
    """P(X ≤ successes) for X ~ Binomial(trials, p). Shapes broadcast."""
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    return np.where(k < n, betaincc(k + 1, np.maximum(n - k, 1), p), 1.0)
