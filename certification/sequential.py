"""Certify and Predict that stop as soon as the votes decide: most images need a hundredth of the votes of a fixed n.

References: see `heatserve.certification.martingale`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtr

from heatserve.certification.confirming import threshold
from heatserve.certification.martingale import evidence_above, evidence_below
from heatserve.certification.monte_carlo import ABSTAIN, alpha_left, top_classes
from heatserve.certification.noise import FLOAT32, NoiseSource
from heatserve.certification.outcome import Outcome
from heatserve.certification.polls import STEP, Test, Want, results_in_order
from heatserve.certification.radius import Float32Array
from heatserve.certification.voting import Classifier, Histogram, MonteCarloError, streams


@dataclass(frozen=True)
class Decision:
    """What `decide` found at one input."""

    outcome: Outcome
    classes: tuple[int, ...]
    """The classes that it is about: the k with most of the n₀ votes."""
    guess: int
    """The class with the most of all votes."""
    samples: int
    """Votes taken, n₀ included."""


@dataclass(frozen=True)
class EarlyPrediction:
    """What `predict_early` found at one input."""

    label: int
    """Class of the smoothed classifier g, or ABSTAIN."""
    samples: int
    """Votes taken."""


def decide(
    classifier: Classifier,
    images: Float32Array,
    *,
    radius: float,
    sigma: float,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    top_k: int = 1,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    noise: NoiseSource = FLOAT32,
    batch_size: int = 512,
) -> Iterator[Decision]:
    """For each image, is the radius of Certify's theorem at least r? Wrong with probability at most alpha.

    YES: P(f votes for the guessed class) > Φ(r/σ), so g answers it within r. NO: that probability is below Φ(r/σ).
    Only one of the two can be wrong at an input, so each is tested at the full alpha. UNDECIDED says nothing.

    Args:
        classifier: the base classifier f.
        images: x, float32 [N, C, H, W].
        radius: r, in L2 on pixels in [0,1]; from 0 to 8σ.
        sigma: standard deviation of the noise, on the scale of the images.
        n0: votes to guess the top classes, as in Certify.
        n: most votes, drawn afresh, before an image is given up as UNDECIDED.
        alpha: probability that the answer for one image is wrong.
        top_k: k, as in `certify`.
        seed: the image with index i always sees the noise of (seed, i), whatever the batch size or the other images.
        indices: i of each image; by default 0 … N − 1.
        noise: how x + η is sampled. What its error can cost is taken from alpha.
        batch_size: noisy images in one call of the classifier, which several images share.

    Yields:
        One decision an image, in order.

    Raises:
        MonteCarloError: arguments that mean nothing.
        NoiseError: an image that the noise source cannot sample for.
    """
    left = alpha_left(alpha, shape=np.shape(images)[1:], votes=n0 + n, sigma=sigma, noise=noise)
    p = threshold(radius, sigma=sigma)
    if min(n0, n) < 1:
        raise MonteCarloError(f"expected sample sizes ≥ 1, got n0 = {n0}, n = {n}")
    test = partial(decision, p=p, n0=n0, n=n, alpha=left, top_k=top_k)
    copies = streams(images, indices=indices, sigma=sigma, seed=seed, noise=noise)
    tests = ((fill, test()) for fill in copies)
    return results_in_order(classifier, tests, shape=np.shape(images)[1:], batch_size=batch_size)


def decision(*, p: float, n0: int, n: int, alpha: float, top_k: int) -> Test[Decision]:
    """The body of `decide` for one image: is P(f votes for one of the guessed classes) above p, or below?

    Args:
        p: `confirming.threshold` of the radius.
        n0: votes to guess the top classes.
        n: most votes, drawn afresh.
        alpha: probability that the answer is wrong, less what the sampling of the noise costs (`alpha_left`).
        top_k: k.
    """
    counts0 = yield Want(n0)  # draw n₀ votes, and guess the top classes
    classes = top_classes(counts0, top_k)
    counts, drawn, outcome = np.zeros_like(counts0), 0, Outcome.UNDECIDED
    while outcome is Outcome.UNDECIDED and drawn < n:
        step = min(STEP, n - drawn)
        counts, drawn = counts + (yield Want(step)), drawn + step  # draw more, afresh
        successes = int(counts[list(classes)].sum())
        if evidence_above(successes, drawn - successes, p=p) >= -math.log(alpha):
            outcome = Outcome.YES
        elif evidence_below(successes, drawn - successes, p=p) >= -math.log(alpha):
            outcome = Outcome.NO
    return Decision(outcome, classes, guess=int((counts0 + counts).argmax()), samples=n0 + drawn)


def provable(radius: float, *, sigma: float, n: int, alpha: float) -> bool:
    """Whether `decide` could say YES to a radius within n votes, were they all for one class."""
    return bool(evidence_above(n, 0, p=float(ndtr(radius / sigma))) >= -math.log(alpha))


def predict_early(
    classifier: Classifier,
    images: Float32Array,
    *,
    sigma: float,
    n: int = 1_000,
    alpha: float = 0.001,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    noise: NoiseSource = FLOAT32,
    batch_size: int = 512,
) -> Iterator[EarlyPrediction]:
    """Predict that stops: for each image, the class of g or ABSTAIN; another class with probability at most alpha.

    The class a is named once the votes for a and for any other class b speak against P(b) ≥ P(a), at alpha/(K − 1). If
    a is not g's class c, then that hypothesis was true for b = c; there are K − 1 such pairs.

    Args:
        n: most votes before an image is given up; the others as for `decide`.
    """
    left = alpha_left(alpha, shape=np.shape(images)[1:], votes=n, sigma=sigma, noise=noise)
    copies = streams(images, indices=indices, sigma=sigma, seed=seed, noise=noise)
    tests = ((fill, _prediction(n=n, alpha=left)) for fill in copies)
    return results_in_order(classifier, tests, shape=np.shape(images)[1:], batch_size=batch_size)


def _prediction(*, n: int, alpha: float) -> Test[EarlyPrediction]:
    """The body of `predict_early` for one image: do the votes for the leader outweigh those for the runner-up?"""
    counts: Histogram | int = 0
    drawn = 0
    while drawn < n:
        step = min(STEP, n - drawn)
        counts, drawn = counts + (yield Want(step)), drawn + step
        second, first = np.argsort(counts, kind="stable")[-2:]
        if evidence_above(counts[first], counts[second], p=0.5) >= math.log((len(counts) - 1) / alpha):
            return EarlyPrediction(int(first), drawn)
    return EarlyPrediction(ABSTAIN, drawn)
