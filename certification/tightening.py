"""Certify as a test that `polls.Polls` takes votes for: as Cohen et al. have it, and with a bound that tightens.

The anytime-valid bound on P = P(f votes for one of the classes) inverts the martingale of `martingale.evidence_above`.
Let M_p be the one against "P(success) ≤ p". After each look the bound is

    L = sup {p : M_p ≥ 1/α} .

Wherever M_p ≥ 1/α > e, M falls strictly in p (docs/theory.md), so the p with M_p ≥ 1/α are an interval (0, L]. So a
bound that is ever above P means that M_P, against a true hypothesis, has reached 1/α: with probability at most α by
Ville's inequality. All bounds of one test hold together with probability at least 1 − α, and so does their maximum.

References:
    Darling and Robbins (1967), Confidence sequences for mean, variance, and median, PNAS 58.
    Howard, Ramdas, McAuliffe and Sekhon (2021), Time-uniform, nonparametric, nonasymptotic confidence sequences,
        Ann. Statist. 49.
    see `heatserve.certification.martingale`, `heatserve.certification.monte_carlo`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtri

from heatserve.certification.martingale import evidence_above
from heatserve.certification.monte_carlo import Certificate, certificate_of, top_classes
from heatserve.certification.polls import STEP, Test, Want


@dataclass(frozen=True)
class Bound:
    """What the votes so far prove at one input. A later bound of the same test is never smaller."""

    classes: tuple[int, ...]
    """The k classes with most of the n₀ votes: what the bound is about, most first."""
    p_lower: float
    """Lower confidence bound on the probability that f votes for one of `classes`."""
    radius: float
    """σ·Φ⁻¹(p_lower) in L2 on pixels in [0,1], as in Certify: with top_k = 1, g answers `classes[0]` within it; 0 where
    p_lower is at most ½."""
    votes: int
    """Votes taken, n₀ included."""


def tightening(*, sigma: float, n0: int, n: int, alpha: float, top_k: int = 1) -> Test[Bound]:
    """Certify for somebody who watches, and may stop at any time: bounds that only grow, and the last after n votes.

    All of them hold together with probability at least 1 − alpha. Looks are `STEP` votes apart at first, and later an
    eighth of the votes so far.

    Args:
        sigma: standard deviation of the noise, on the scale of the images.
        n0: votes to guess the top classes.
        n: most votes, drawn afresh, to bound their probability.
        alpha: probability that any of the bounds is wrong, less what the sampling of the noise costs
            (`monte_carlo.alpha_left`).
        top_k: k, as in `monte_carlo.certify`.
    """
    classes = top_classes((yield Want(n0)), top_k)
    successes, drawn, bound = 0, 0, Bound(classes, 0.0, 0.0, n0)
    while drawn < n:
        step = min(max(STEP, drawn // 8), n - drawn)
        counts = yield Want(step, bound if drawn else None)
        successes, drawn = successes + int(counts[list(classes)].sum()), drawn + step
        p_lower = anytime_lower_bound(successes, drawn, alpha=alpha, least=bound.p_lower)
        bound = Bound(classes, p_lower, sigma * max(0.0, float(ndtri(p_lower))), n0 + drawn)
    return bound


def certificate(*, sigma: float, n0: int, n: int, alpha: float, top_k: int = 1) -> Test[Certificate]:
    """Certify (Algorithm 2) at one input: exactly n₀ + n votes, nothing before. Arguments as for `tightening`."""
    counts0 = yield Want(n0)
    counts = yield Want(n)
    return certificate_of(counts0, counts, sigma=sigma, n=n, alpha=alpha, top_k=top_k)


def anytime_lower_bound(successes: int, trials: int, *, alpha: float, least: float = 0.0) -> float:
    """L, a lower confidence bound on P(success) that holds at all times together with probability at least 1 − alpha.

    Args:
        successes: s, so far.
        trials: s + f, at least 1.
        alpha: probability that any bound is above P. One above 1/e counts as 1/e, below which L is what it says.
        least: the largest bound of earlier looks, in [0,1), which is returned where this one is no larger.
    """
    enough = max(-math.log(alpha), 1.0)

    def is_refuted(p: float) -> bool:
        return bool(evidence_above(successes, trials - successes, p=p) >= enough)

    if least and not is_refuted(least):
        return least
    low, high = least, successes / trials  # M_p ≤ 1 from there on
    while high - low > _WIDTH:
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low


_WIDTH = 1e-9
"""By how much a bound may be below L."""
