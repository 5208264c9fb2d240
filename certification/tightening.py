"""Certify as a test that `polls.Polls` takes votes for: as Cohen et al. have it, and with a bound that tightens.

The bound on P = P(f votes for one of the classes) is `anytime.anytime_lower_bound`. All bounds of one test hold
together with probability at least 1 − α, and so does their maximum.

References: see `heatserve.certification.anytime`, `heatserve.certification.monte_carlo`.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import ndtri

from heatserve.certification.anytime import anytime_lower_bound
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
