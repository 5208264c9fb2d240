"""Confirm: is the class of a single pass proven within a radius, for this very image? Tens of votes.

References:
    Cohen, Rosenfeld and Kolter (2019), Certified adversarial robustness via randomized smoothing, Theorem 1.
    see `heatserve.certification.martingale` for the test.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy.special import ndtr

from heatserve.certification.martingale import evidence_above, evidence_below
from heatserve.certification.monte_carlo import alpha_left
from heatserve.certification.noise import GRID, NoiseSource
from heatserve.certification.polls import Test, Want
from heatserve.certification.radius import Float32Array
from heatserve.certification.sequential import Outcome, _run
from heatserve.certification.voting import Classifier, Histogram, MonteCarloError

STEP = 16


class Ending(Enum):
    """Why `confirm` answers what it does."""

    PROVEN = "proven"
    DISPROVEN = "disproven"
    HOPELESS = "hopeless"
    VOTES = "votes"

    @property
    def outcome(self) -> Outcome:
        """Is the class proven within the radius?"""
        return {Ending.PROVEN: Outcome.YES, Ending.DISPROVEN: Outcome.NO}.get(self, Outcome.UNDECIDED)


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


def confirm(
    classifier: Classifier,
    images: Float32Array,
    labels: Sequence[int],
    expected: Sequence[float],
    *,
    radius: float,
    sigma: float,
    n: int = 1_000,
    alpha: float = 1e-6,
    seed: int | None = None,
    noise: NoiseSource = GRID,
    batch_size: int = 512,
) -> Iterator[Confirmation]:
    """For each image, is the class of the single pass the smoothed classifier's at x and within r of it?

    Args:
        classifier: the base classifier f.
        images: x, float32 [N, C, H, W].
        labels: the classes to confirm, [N].
        expected: their probabilities as the single pass has them, p₍₁₎ [N].
        radius: r, in L2 on pixels in [0,1].
        sigma: standard deviation of the noise, on the scale of the images.
        n: most votes for one image.
        alpha: probability that the answer for one image is wrong.
        seed: for noise that can be repeated, offline; None takes fresh entropy from the operating system.
        noise: how x + η is sampled. What its error can cost is taken from alpha.
        batch_size: noisy images in one call of the classifier, which several images share.
    """
    left = alpha_left(alpha, images, votes=n, sigma=sigma, noise=noise)
    p = threshold(radius, sigma=sigma)
    copies = (
        noise.copies(image, sigma=sigma, seed=secrets.randbits(128) if seed is None else seed, index=index)
        for index, image in enumerate(images)
    )
    asked = iter(zip(labels, expected, strict=True))

    def test() -> Generator[int, Histogram, Confirmation]:
        label, share = next(asked)
        return _sizes(confirmation(label=int(label), expected=float(share), p=p, n=n, alpha=left))

    return _run(classifier, copies, test, shape=np.shape(images)[1:], batch_size=batch_size)


def _sizes(test: Test[Confirmation]) -> Generator[int, Histogram, Confirmation]:
    want = next(test)
    while True:
        counts = yield want.votes
        try:
            want = test.send(counts)
        except StopIteration as stop:
            found: Confirmation = stop.value
            return found


def confirmation(*, label: int, expected: float, p: float, n: int, alpha: float) -> Test[Confirmation]:
    """The body of `confirm` for one image: is P(f votes for `label`) above p?

    Args:
        label: the class to confirm.
        expected: its probability as the single pass has it, p₍₁₎.
        p: `threshold(radius, sigma=sigma)`.
        n: most votes.
        alpha: probability that YES or NO is wrong; less what the noise's sampling costs (`alpha_left`).
    """
    if not 0 <= expected <= 1:  # not a number: the single pass answers no class
        return Confirmation(Ending.HOPELESS, 0)
    successes, drawn = 0, 0
    while drawn < n:
        step = min(STEP, n - drawn)
        counts = yield Want(step)
        successes, drawn = successes + int(counts[label]), drawn + step
        if evidence_above(successes, drawn - successes, p=p) >= -math.log(alpha):
            return Confirmation(Ending.PROVEN, drawn)
        if evidence_below(successes, drawn - successes, p=p) >= -math.log(alpha):
            return Confirmation(Ending.DISPROVEN, drawn)
    return Confirmation(Ending.VOTES, drawn)


def threshold(radius: float, *, sigma: float) -> float:
    """Φ(r/σ): a class with more than this share of all votes is the smoothed classifier's within r (Cohen et al.)."""
    if not 0 <= radius <= 8 * sigma:
        raise MonteCarloError(f"radius: expected 0 to 8σ = {8 * sigma:g}, got {radius}")
    return float(ndtr(radius / sigma))


def votes_needed(radius: float, *, sigma: float, alpha: float) -> int:
    """Votes that prove a radius when all of them are for the class; no rule needs fewer."""
    p, enough = threshold(radius, sigma=sigma), -math.log(alpha)
    votes = 1
    while evidence_above(votes, 0, p=p) < enough:
        votes *= 2
    least = votes // 2
    while votes - least > 1:
        middle = (votes + least) // 2
        least, votes = (least, middle) if evidence_above(middle, 0, p=p) >= enough else (middle, votes)
    return votes
