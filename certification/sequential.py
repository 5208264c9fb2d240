"""Certify and Predict that stop as soon as the votes decide: most images need a hundredth of the votes of a fixed n.

References: see `heatserve.certification.martingale`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
from scipy.special import ndtr

from heatserve.certification.martingale import evidence_above, evidence_below
from heatserve.certification.monte_carlo import ABSTAIN, alpha_left, top_classes
from heatserve.certification.noise import FLOAT32, Fill, NoiseSource
from heatserve.certification.radius import Float32Array
from heatserve.certification.voting import Classifier, Histogram, MonteCarloError, histograms, streams

STEP = 16
"""Votes between two looks at the evidence."""

T = TypeVar("T")
_Inquiry = Generator[int, Histogram, T]
"""What is asked about one image: yields how many votes it wants, is sent their histogram, returns the answer."""


class Outcome(Enum):
    """Is the radius at least r? True as a condition only where it is YES."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"

    def __bool__(self) -> bool:
        return self is Outcome.YES


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
    left = alpha_left(alpha, images, votes=n0 + n, sigma=sigma, noise=noise)
    if not 0 <= radius <= 8 * sigma:
        raise MonteCarloError(f"radius: expected 0 to 8σ = {8 * sigma:g}, got {radius}")
    if min(n0, n) < 1:
        raise MonteCarloError(f"expected sample sizes ≥ 1, got n0 = {n0}, n = {n}")
    inquiry = partial(_whether_above, p=float(ndtr(radius / sigma)), n0=n0, n=n, alpha=left, top_k=top_k)
    copies = streams(images, indices=indices, sigma=sigma, seed=seed, noise=noise)
    return _settle(classifier, copies, inquiry, shape=np.shape(images)[1:], batch_size=batch_size)


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
    left = alpha_left(alpha, images, votes=n, sigma=sigma, noise=noise)
    copies = streams(images, indices=indices, sigma=sigma, seed=seed, noise=noise)
    return _settle(
        classifier, copies, partial(_which_class, n=n, alpha=left), shape=np.shape(images)[1:], batch_size=batch_size
    )


def _whether_above(*, p: float, n0: int, n: int, alpha: float, top_k: int) -> _Inquiry[Decision]:
    """Is the probability of a vote for the classes that n₀ votes guess above p?"""
    guesses = yield from _take(n0)
    classes = top_classes(guesses, top_k)
    level, counted, votes, answer = -math.log(alpha), np.zeros_like(guesses), 0, Outcome.UNDECIDED
    while votes < n and answer is Outcome.UNDECIDED:
        size = min(STEP, n - votes)
        counted, votes = counted + (yield size), votes + size
        successes = int(counted[list(classes)].sum())
        if evidence_above(successes, votes - successes, p=p) >= level:
            answer = Outcome.YES
        elif evidence_below(successes, votes - successes, p=p) >= level:
            answer = Outcome.NO
    return Decision(answer, classes, int((guesses + counted).argmax()), n0 + votes)


def _which_class(*, n: int, alpha: float) -> _Inquiry[EarlyPrediction]:
    """The class of g, by the votes for the leader against those for the runner-up."""
    votes: Histogram | int = 0
    taken = 0
    while taken < n:
        size = min(STEP, n - taken)
        votes, taken = votes + (yield size), taken + size
        second, first = np.argsort(votes, kind="stable")[-2:]
        if evidence_above(votes[first], votes[second], p=0.5) >= math.log((len(votes) - 1) / alpha):
            return EarlyPrediction(int(first), taken)
    return EarlyPrediction(ABSTAIN, taken)


def _take(count: int) -> _Inquiry[Histogram]:
    votes = yield min(STEP, count)
    for taken in range(STEP, count, STEP):
        votes = votes + (yield min(STEP, count - taken))
    return votes


def _settle(
    classifier: Classifier,
    copies: Iterator[Fill],
    inquire: Callable[[], _Inquiry[T]],
    *,
    shape: Sequence[int],
    batch_size: int,
) -> Iterator[T]:
    """The answer of each image's inquiry, in order; so many are open at a time that `STEP` votes each fill a batch."""
    waiting = enumerate((fill, inquire()) for fill in copies)
    open_, answers, turn = list[_Open[T]](), dict[int, T](), 0
    while True:
        for number, (fill, inquiry) in islice(waiting, max(1, batch_size // STEP) - len(open_)):
            open_.append(_Open(number, fill, inquiry, next(inquiry)))
        if not open_:
            return
        requests = [(case.fill, case.wanted) for case in open_]
        for case, votes in zip(
            open_, histograms(classifier, requests, shape=shape, batch_size=batch_size), strict=True
        ):
            try:
                case.wanted = case.inquiry.send(votes)
            except StopIteration as stop:
                answers[case.number] = stop.value
        open_ = [case for case in open_ if case.number not in answers]
        while turn in answers:
            yield answers.pop(turn)
            turn += 1


@dataclass
class _Open(Generic[T]):
    """An image that has no answer yet."""

    number: int
    fill: Fill
    inquiry: _Inquiry[T]
    wanted: int
