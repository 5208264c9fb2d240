"""Predict and Certify of Cohen et al. (2019): the rigorous, expensive answer that everything else is held against.

References:
    Cohen, Rosenfeld and Kolter (2019), Certified adversarial robustness via randomized smoothing, Algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binomtest

from certification.binomial import lower_bound
from certification.radius import Float32Array

ABSTAIN = -1

Classifier = Callable[[Float32Array], NDArray[np.floating[Any]]]
"""The base classifier f: images float32 [N, C, H, W] in [0,1], plus noise, to scores [N, K]. Its vote: the argmax."""


@dataclass(frozen=True)
class Certificate:
    """What Certify proves at one input."""

    label: int
    """Class of the smoothed classifier g, or ABSTAIN."""
    radius: float
    """g answers `label` within this L2 distance (pixels in [0,1]); 0 where it abstains."""
    p_lower: float
    """Lower confidence bound on the probability that f votes for `label`."""
    guess: int
    """The class with most of all n₀ + n votes, which nothing guarantees; `label` wherever Certify does not abstain."""


def certify(
    classifier: Classifier,
    images: Float32Array,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    seed: int = 0,
    batch_size: int = 512,
) -> Iterator[Certificate]:
    """Certify (Algorithm 2): for each image abstain, or a class and radius that hold with probability ≥ 1 − alpha.

    Args:
        classifier: the base classifier f.
        images: x, float32 [N, C, H, W].
        sigma: standard deviation of the noise, on the scale of the images.
        n0: votes to guess the top class.
        n: votes, drawn afresh, to bound its probability.
        alpha: probability that the answer for one image is wrong.
        seed: image i always sees the noise of (seed, i), whatever the batch size.
        batch_size: noisy images in one call of the classifier.

    Yields:
        One certificate an image, in order. A radius is finite even when all votes agree.
    """
    for votes in _votes(classifier, images, sigma=sigma, sizes=(n0, n), seed=seed, batch_size=batch_size):
        label = int(votes[0].argmax())
        p_lower = float(lower_bound(votes[1][label], n, alpha=alpha))
        if p_lower > 0.5:
            yield Certificate(label, sigma * float(ndtri(p_lower)), p_lower, label)
        else:
            yield Certificate(ABSTAIN, 0.0, p_lower, int((votes[0] + votes[1]).argmax()))


def largest_provable(*, n: int, alpha: float) -> float:
    """The radius / σ that Certify proves when all n votes agree: Φ⁻¹(α^(1/n)); it never proves more."""
    return float(ndtri(lower_bound(n, n, alpha=alpha)))


def predict(
    classifier: Classifier,
    images: Float32Array,
    *,
    sigma: float,
    n: int = 1_000,
    alpha: float = 0.001,
    seed: int = 0,
    batch_size: int = 512,
) -> Iterator[int]:
    """Predict (Algorithm 1): for each image, the class of g or ABSTAIN; another class with probability at most alpha.

    Arguments as for `certify`.
    """
    for (votes,) in _votes(classifier, images, sigma=sigma, sizes=(n,), seed=seed, batch_size=batch_size):
        second, first = np.argsort(votes, kind="stable")[-2:]
        in_favour, against = int(votes[first]), int(votes[second])
        decided = binomtest(in_favour, in_favour + against, 0.5).pvalue <= alpha
        yield int(first) if decided else ABSTAIN


def _votes(
    classifier: Classifier,
    images: Float32Array,
    *,
    sigma: float,
    sizes: tuple[int, ...],
    seed: int,
    batch_size: int,
) -> Iterator[list[NDArray[np.int64]]]:
    """For each image, one histogram of votes [K] for each of `sizes`, all from that image's own stream of noise."""
    if sigma <= 0 or min(sizes) < 1 or batch_size < 1:
        raise ValueError(f"expected sigma > 0, sample sizes and batch_size ≥ 1, got {sigma}, {sizes}, {batch_size}")
    for index, image in enumerate(np.asarray(images, dtype=np.float32)):
        noise = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
        yield [_histogram(classifier, image, sigma, size, noise, batch_size) for size in sizes]


def _histogram(
    classifier: Classifier,
    image: Float32Array,
    sigma: float,
    size: int,
    noise: np.random.Generator,
    batch_size: int,
) -> NDArray[np.int64]:
    votes: NDArray[np.int64] | int = 0
    for start in range(0, size, batch_size):
        eta = noise.standard_normal((min(batch_size, size - start), *image.shape), dtype=np.float32)
        scores = classifier(image + np.float32(sigma) * eta)
        votes = votes + np.bincount(scores.argmax(-1), minlength=scores.shape[-1])
    return np.asarray(votes)
