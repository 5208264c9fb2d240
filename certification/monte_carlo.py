"""Predict and Certify of Cohen et al. (2019): the rigorous, expensive answer that everything else is compared with.

References:
    Cohen, Rosenfeld and Kolter (2019), Certified adversarial robustness via randomized smoothing, Algorithms 1 and 2.
    Campbell, Finlay and Oberman (2020), Adversarial Boot Camp: label free certified robustness in one epoch,
        Figure 1(b): the top-5 rule, as in their published code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from heatserve.certification.binomial import at_most, lower_bound
from heatserve.certification.noise import FLOAT32, NoiseSource, grey_levels
from heatserve.certification.radius import Float32Array
from heatserve.certification.voting import Classifier, Histogram, MonteCarloError, histograms, streams

ABSTAIN = -1


@dataclass(frozen=True)
class Certificate:
    """What Certify proves at one input."""

    label: int
    """Class of the smoothed classifier g, or ABSTAIN. Under a top-k rule, the first of `classes`."""
    radius: float
    """g answers `label` within this L2 distance (pixels in [0,1]); 0 where it abstains."""
    p_lower: float
    """Lower confidence bound on the probability that f votes for `label`; under a top-k rule, for one of `classes`."""
    guess: int
    """The class with most of all n₀ + n votes, which nothing guarantees; for k = 1, `label` unless Certify abstains."""
    classes: tuple[int, ...]
    """The k classes with most of the n₀ votes: what was certified, or failed to be."""

    @property
    def grey_levels(self) -> float:
        """The radius in grey levels of 8 bits."""
        return grey_levels(self.radius)


def certify(
    classifier: Classifier,
    images: Float32Array,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    top_k: int = 1,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    noise: NoiseSource = FLOAT32,
    batch_size: int = 512,
) -> Iterator[Certificate]:
    """Certify (Algorithm 2): for each image abstain, or a class and radius that hold with probability ≥ 1 − alpha.

    With `top_k` above 1 (Campbell et al., Figure 1b), a vote counts as a success when it is for one of the k classes
    that have most of the n₀ votes, and p_B is 1 − p_A. What then holds within the radius is that f's vote is for one of
    these k classes with probability above ½; the class with most votes may still be another one.

    Args:
        classifier: the base classifier f.
        images: x, float32 [N, C, H, W].
        sigma: standard deviation of the noise, on the scale of the images.
        n0: votes to guess the top classes.
        n: votes, drawn afresh, to bound their probability.
        alpha: probability that the answer for one image is wrong.
        top_k: k.
        seed: the image with index i always sees the noise of (seed, i), whatever the batch size or the other images.
        indices: i of each image; by default 0 … N − 1.
        noise: how x + η is sampled. What its error can cost is taken from alpha.
        batch_size: noisy images in one call of the classifier.

    Yields:
        One certificate an image, in order. A radius is finite even when all votes agree.

    Raises:
        MonteCarloError: arguments that mean nothing.
        NoiseError: an image that the noise source cannot sample for.
    """
    left = alpha_left(alpha, shape=np.shape(images)[1:], votes=n0 + n, sigma=sigma, noise=noise)
    votes_of = _sample_under_noise(
        classifier, images, (n0, n), sigma=sigma, seed=seed, indices=indices, noise=noise, batch_size=batch_size
    )
    for counts0, counts in votes_of:
        yield certificate_of(counts0, counts, sigma=sigma, n=n, alpha=left, top_k=top_k)


def certificate_of(
    counts0: Histogram, counts: Histogram, *, sigma: float, n: int, alpha: float, top_k: int
) -> Certificate:
    """The body of Certify for one image: what its n₀ votes and its n votes prove, [K] each.

    Args:
        counts0: votes that guess the top classes.
        counts: votes, drawn afresh, that bound their probability.
        sigma: standard deviation of the noise.
        n: how many these are, those for no class included.
        alpha: probability that the answer is wrong, less what the sampling of the noise costs (`alpha_left`).
        top_k: k, as in `certify`.
    """
    classes = top_classes(counts0, top_k)  # guess the top classes, ĉ_A
    p_lower = float(lower_bound(counts[list(classes)].sum(), n, alpha=alpha))  # p_A, bounds their share
    most = int((counts0 + counts).argmax())
    if not p_lower > 0.5:  # NaN proves nothing
        return Certificate(ABSTAIN, 0.0, p_lower, most, classes)
    radius = sigma * float(ndtri(p_lower))  # σ·Φ⁻¹(p_A)
    return Certificate(classes[0], radius, p_lower, classes[0] if top_k == 1 else most, classes)


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
    indices: Sequence[int] | None = None,
    noise: NoiseSource = FLOAT32,
    batch_size: int = 512,
) -> Iterator[int]:
    """Predict (Algorithm 1): for each image, the class of g or ABSTAIN; another class with probability at most alpha.

    Arguments as for `certify`.
    """
    left = alpha_left(alpha, shape=np.shape(images)[1:], votes=n, sigma=sigma, noise=noise)
    votes_of = _sample_under_noise(
        classifier, images, (n,), sigma=sigma, seed=seed, indices=indices, noise=noise, batch_size=batch_size
    )
    for (counts,) in votes_of:
        second, first = np.argsort(counts, kind="stable")[-2:]  # the two top classes, ĉ_B and ĉ_A
        n_a, n_b = int(counts[first]), int(counts[second])
        p_value = 2 * at_most(n_b, n_a + n_b, 0.5)  # two-sided; at a tie above 1
        yield int(first) if n_a and p_value <= left else ABSTAIN


def top_classes(votes: Histogram, k: int) -> tuple[int, ...]:
    """The k classes with most votes, most first; of equal ones the smaller number.

    Raises:
        MonteCarloError: k is not from 1 to K − 1.
    """
    if not 1 <= k < len(votes):
        raise MonteCarloError(f"top_k: expected 1 to {len(votes) - 1} for {len(votes)} classes, got {k}")
    return tuple(np.argsort(-votes, kind="stable")[:k].tolist())


def alpha_left(alpha: float, *, shape: Sequence[int], votes: int, sigma: float, noise: NoiseSource) -> float:
    """alpha, less what sampling one image's votes inexactly can add to the probability of any event.

    Whatever is proven from at most `votes` votes at this level is wrong with probability at most `alpha`.

    Args:
        alpha: the probability of a wrong answer that was asked for.
        shape: [C, H, W] of the image.
        votes: the most votes that the answer may rest on, n₀ included.
        sigma: standard deviation of the noise.
        noise: how it is sampled.

    Raises:
        MonteCarloError: alpha is not between 0 and 1, or nothing is left of it.
    """
    if sigma <= 0 or votes < 1:
        raise MonteCarloError(f"expected sigma > 0 and sample sizes ≥ 1, got {sigma} and {votes}")
    left = alpha - votes * noise.variation(math.prod(shape), sigma=sigma)
    if not 0 < left < 1:
        raise MonteCarloError(f"alpha: expected a number between {alpha - left:g} and 1, got {alpha}")
    return left


def _sample_under_noise(
    classifier: Classifier,
    images: Float32Array,
    sizes: tuple[int, ...],
    *,
    sigma: float,
    seed: int,
    indices: Sequence[int] | None,
    noise: NoiseSource,
    batch_size: int,
) -> Iterator[tuple[Histogram, ...]]:
    """SampleUnderNoise: for each image, the counts of its votes in samples of `sizes`, from its own stream of noise."""
    copies = streams(images, indices=indices, sigma=sigma, seed=seed, noise=noise)
    requests = ((fill, size) for fill in copies for size in sizes)
    votes = histograms(classifier, requests, shape=np.shape(images)[1:], batch_size=batch_size)
    return zip(*[votes] * len(sizes), strict=True)
