"""Exact confidence bounds on a binomial proportion.

References:
    Clopper and Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta


def lower_bound(successes: ArrayLike, trials: ArrayLike, *, alpha: float) -> NDArray[np.float64]:
    """Clopper-Pearson: at most the true proportion with probability at least 1 − alpha. Shapes broadcast."""
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    return np.where(k > 0, beta.ppf(alpha, np.maximum(k, 1), n - k + 1), 0.0)


def upper_bound(successes: ArrayLike, trials: ArrayLike, *, alpha: float) -> NDArray[np.float64]:
    """Clopper-Pearson: at least the true proportion with probability at least 1 − alpha. 1 where trials is 0."""
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    return np.where(k < n, beta.ppf(1 - alpha, k + 1, np.maximum(n - k, 1)), 1.0)
