"""Confirm: is the class of the single pass proven within a radius, for this very image? Tens of votes.

    Theorem. Let η ~ N(0, σ²I), let f be any classifier, x any image and c any class that does not depend on the noise,
    p = Φ(r/σ) with r ≥ 0. If P(f(x + η) = c) > p, then the smoothed classifier g answers c at every x + δ with
    ‖δ‖₂ ≤ r (Cohen et al.). The answer YES, PROVEN, is given where P(f(x + η) = c) ≤ p with probability at most α, and
    NO, DISPROVEN, where P(f(x + η) = c) > p with probability at most α, however many votes are allowed, and whenever
    it is asked to stop. At one image only one of the two can be wrong, so that both together are with probability α.

It assumes that votes are independent draws of f(x + η), whose noise nobody could know when the image was chosen:
neither who made the image, nor what chose c. Nothing is assumed about f, the single-pass model v, or about how likely
the image is. Certify spends n₀ votes on a guess of c; here v's class takes their place, which does not depend on the
noise. How sure v is of it decides nothing, not even the number of votes. Where the votes so far leave little chance of
a proof, the image is given up.

References:
    Cohen, Rosenfeld and Kolter (2019), Certified adversarial robustness via randomized smoothing, Theorem 1.
    See `heatserve.certification.martingale` for the test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincc, ndtr

from heatserve.certification.martingale import JEFFREYS, evidence_above, evidence_below
from heatserve.certification.monte_carlo import alpha_left
from heatserve.certification.noise import GRID, Fill, NoiseSource
from heatserve.certification.outcome import Ending, Outcome
from heatserve.certification.polls import Test, Want, results_in_order
from heatserve.certification.radius import Float32Array
from heatserve.certification.voting import Classifier, MonteCarloError, streams

MOST_SIGMAS = 8
"""The largest radius that can be asked about, in σ: beyond it float64 hardly tells Φ(r/σ) from 1."""


@dataclass(frozen=True)
class Confirmation:
    """What `confirm` found at one input."""

    reason: Ending
    votes: int
    """Votes taken."""

    @property
    def outcome(self) -> Outcome:
        """Is the class proven within the radius?"""
        return self.reason.outcome


@dataclass(frozen=True)
class Rule:
    """What decides the price of a confirmation, and not what it means: any of these is wrong at most as often."""

    step: int = 8
    """Most votes between two looks at the evidence."""
    is_eager: bool = True
    """Whether a look comes earlier, where so few votes can be the proof, if all of them are for the class."""
    price: float | None = 36.0
    """An image is given up where, after the first votes, a proof may be expected to cost more of them than this many
    proofs whose votes are all for the class; and at once where n are too few for any proof. None: never."""


RULE = Rule()
"""How `confirm` goes on: constants that were chosen on images that no figure is reported on (docs/decisions.md)."""
PLAIN = Rule(step=16, is_eager=False, price=None)
"""What `decide` does: a look after every 16 votes, no giving up."""


def confirm(
    classifier: Classifier,
    images: Float32Array,
    labels: Sequence[int],
    *,
    radius: float,
    sigma: float,
    n: int = 1_000,
    alpha: float = 1e-6,
    seed: int | None = None,
    noise: NoiseSource = GRID,
    batch_size: int = 512,
) -> Iterator[Confirmation]:
    """For each image, is the class of the single pass that of the smoothed classifier g at x, and within r of it?

    Each answer YES or NO is wrong with probability at most alpha, whatever the image; over N images, some answer is
    with probability at most N·alpha. UNDECIDED says nothing. What holds, and under which assumptions: see the theorem
    at the head of this module.

    Args:
        classifier: the base classifier f.
        images: x, float32 [N, C, H, W].
        labels: the classes to confirm, those of the single pass, [N]; at a negative one, which is no class, nothing is.
        radius: r, in L2 on pixels in [0,1]; from 0 to 8σ.
        sigma: standard deviation of the noise, on the scale of the images.
        n: most votes for one image. With more, more images are confirmed, at more votes for each that is not.
        alpha: probability that the answer for one image is wrong.
        seed: None takes fresh entropy from the operating system. A number makes the noise repeatable, for images that
            nobody chose who knows it: the image with index i sees the noise of (seed, i).
        noise: how x + η is sampled. What its error can cost is taken from alpha.
        batch_size: noisy images in one call of the classifier, which several images share.

    Yields:
        One confirmation an image, in order.

    Raises:
        MonteCarloError: arguments that mean nothing.
        NoiseError: an image that the noise source cannot sample for.
    """
    if len(images) != len(labels):
        raise MonteCarloError(f"labels: expected {len(images)}, one an image, got {len(labels)}")
    images = np.asarray(images, dtype=np.float32)
    left = alpha_left(alpha, shape=images.shape[1:], votes=n, sigma=sigma, noise=noise)
    p = threshold(radius, sigma=sigma)
    tests = (confirmation(label=int(label), p=p, n=n, alpha=left) for label in labels)
    fills: Iterator[Fill]
    if seed is None:
        fills = (noise.copies(image, sigma=sigma, entropy=np.random.SeedSequence()) for image in images)
    else:
        fills = streams(images, indices=None, sigma=sigma, seed=seed, noise=noise)
    asked = zip(fills, tests, strict=True)
    return results_in_order(classifier, asked, shape=images.shape[1:], batch_size=batch_size)


def confirmation(*, label: int, p: float, n: int, alpha: float, rule: Rule = RULE) -> Test[Confirmation]:
    """The body of `confirm` for one image: is P(f votes for `label`) above p?

    Args:
        label: the class to confirm, which must not depend on the noise.
        p: `threshold(radius, sigma=sigma)`.
        n: most votes.
        alpha: probability that YES, or NO, is wrong; less what the sampling of noise costs, see `alpha_left`.
        rule: decides the number of votes.

    Returns:
        The test. Where there is no class (a negative label) it is HOPELESS without a vote.
    """
    if n < 1 or not 0 < alpha < 1 or not 0.5 <= p <= ndtr(MOST_SIGMAS):
        raise MonteCarloError(f"expected n ≥ 1, 0 < alpha < 1 and ½ ≤ p ≤ Φ(8), got {n}, {alpha} and {p}")
    if label < 0:
        return Confirmation(Ending.HOPELESS, 0)
    enough = -math.log(alpha)
    fewest = _unanimous(p, enough=enough)
    if rule.price is not None and fewest > n:
        return Confirmation(Ending.HOPELESS, 0)
    prospects = _prospects(fewest, n, p=p, enough=enough)
    successes, failures = 0, 0
    while True:
        drawn = successes + failures
        if evidence_above(successes, failures, p=p) >= enough:
            return Confirmation(Ending.PROVEN, drawn)
        if evidence_below(successes, failures, p=p) >= enough:
            return Confirmation(Ending.DISPROVEN, drawn)
        if drawn == n:
            return Confirmation(Ending.VOTES, drawn)
        if rule.price is not None and drawn and prospects.cost(successes, failures) > rule.price * fewest:
            return Confirmation(Ending.HOPELESS, drawn)
        step = min(rule.step, n - drawn)
        if rule.is_eager:  # look as soon as it can be proven, if all votes are for the class
            proofs = evidence_above(successes + np.arange(1, step), failures, p=p) >= enough
            step = 1 + int(proofs.argmax()) if proofs.any() else step
        votes = yield Want(step)
        successes, failures = successes + int(votes[label]), failures + step - int(votes[label])


@dataclass(frozen=True)
class _Prospects:
    """What a proof may be expected to cost: an estimate, on which the number of votes rests and nothing else."""

    totals: NDArray[np.int64]
    """Numbers of votes by which there may be a proof, from the fewest to n; empty where n are too few."""
    needed: NDArray[np.int64]
    """Fewest successes among so many votes that are a proof."""

    def cost(self, successes: int, failures: int) -> float:
        """Votes from here on for each proof, at the best total to stop at: their number, divided by its chance.

        The chance of so many successes as a total needs is about the probability, by Jeffreys' prior and the votes so
        far, that P(success) is above their share of the coming votes, with a correction of half a vote.
        """
        drawn = successes + failures
        later = self.totals > drawn
        left, needed = self.totals[later] - drawn, self.needed[later] - successes
        shares = np.clip((needed - 0.5) / left, 0, 1)
        chances = betaincc(JEFFREYS[0] + successes, JEFFREYS[1] + failures, shares)
        with np.errstate(divide="ignore"):
            return float(np.min(left / chances, initial=np.inf))


@lru_cache(maxsize=64)
def _prospects(fewest: int, n: int, *, p: float, enough: float) -> _Prospects:
    """The prospects at every image of one question; each total is half as much again as the one before."""
    totals = [total for k in range(_HORIZONS) if (total := math.ceil(fewest * 1.5**k)) < n]
    many = np.array([*totals, n] if fewest <= n else [], dtype=np.int64)
    return _Prospects(many, _fewest_successes(many, p=p, enough=enough))


_HORIZONS = 64


def _fewest_successes(totals: NDArray[np.int64], *, p: float, enough: float) -> NDArray[np.int64]:
    """Fewest successes among so many votes that prove P(success) > p; one more than the votes where all are too few."""
    few, many = np.full_like(totals, -1), totals + 1
    while (many - few > 1).any():  # the evidence grows with the successes
        middle = np.clip((few + many) // 2, 0, totals)
        proves = evidence_above(middle, totals - middle, p=p) >= enough
        few, many = np.where(proves, few, middle), np.where(proves, middle, many)
    return many


@lru_cache(maxsize=64)
def _unanimous(p: float, *, enough: float) -> int:
    """Votes that prove P(success) > p when all are successes."""
    few, many = 0, 1
    while evidence_above(many, 0, p=p) < enough:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if evidence_above(middle, 0, p=p) >= enough else (middle, many)
    return many


def threshold(radius: float, *, sigma: float) -> float:
    """Φ(r/σ): a class for which more than this share of all votes is, g answers within r (Cohen et al., Theorem 1).

    Raises:
        MonteCarloError: a radius that is not from 0 to 8σ.
    """
    if not 0 <= radius <= MOST_SIGMAS * sigma:
        raise MonteCarloError(f"radius: expected 0 to {MOST_SIGMAS}σ = {MOST_SIGMAS * sigma:g}, got {radius}")
    return float(ndtr(radius / sigma))


def votes_needed(radius: float, *, sigma: float, alpha: float) -> int:
    """Votes that prove a radius when all of them are for the class; `confirm` never proves it with fewer.

    Args:
        radius: r, in L2 on pixels in [0,1].
        sigma: standard deviation of the noise.
        alpha: as for `confirmation`.
    """
    return _unanimous(threshold(radius, sigma=sigma), enough=-math.log(alpha))
