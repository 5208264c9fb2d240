"""Votes of a base classifier on noisy copies: what Predict, Certify and their sequential forms draw on.

Samples of a fixed size are taken here. Batches are full whatever an algorithm asks for: one may hold copies of several
images. The next batch is filled while the classifier works on the one before. Sequential forms, whose next sample
depends on the one before, take theirs from `polls`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.noise import Fill, NoiseError, NoiseSource
from heatserve.certification.radius import Float32Array

Classifier = Callable[[Float32Array], NDArray[np.floating[Any]]]
"""The base classifier f: images float32 [N, C, H, W] in [0,1], plus noise, to scores [N, K].

Its vote is the argmax; for no class where there is a NaN among the scores."""

Histogram = NDArray[np.int64]
"""Number of votes for each class, [K]. Votes for no class count towards the size of a sample, and nowhere here."""

T = TypeVar("T")


class MonteCarloError(HeatserveError):
    """Arguments that Monte Carlo certification cannot work with."""


class DependentVotesError(MonteCarloError):
    """Votes that depend on the other copies of a batch: none that this classifier has cast proves anything."""


def streams(
    images: Float32Array, *, indices: Sequence[int] | None, sigma: float, seed: int, noise: NoiseSource
) -> Iterator[Fill]:
    """The noisy copies of each image [C, H, W]: the image with index i has stream (seed, i), 0 … N − 1 by default."""
    indices = range(len(images)) if indices is None else indices
    if len(indices) != len(images) or any(index < 0 for index in indices):
        raise MonteCarloError(
            f"indices: expected {len(images)} numbers from 0, one an image, got {len(indices)}, the least "
            f"{min(indices, default=0)}"
        )
    for name, number in (("seed", seed), ("indices", max(indices, default=0))):
        if not 0 <= number < 2**32:  # a stream is drawn from both, in words of 32 bits: larger ones would share streams
            raise MonteCarloError(f"{name}: expected at most 2³² − 1 and at least 0, got {number}")
    for index, image in zip(indices, np.asarray(images, dtype=np.float32), strict=True):
        try:
            yield noise.copies(image, sigma=sigma, entropy=np.random.SeedSequence([seed, int(index)]))
        except NoiseError as error:
            raise NoiseError(f"image {index}: {error}") from error


def histograms(
    classifier: Classifier, requests: Iterable[tuple[Fill, int]], *, shape: Sequence[int], batch_size: int
) -> Iterator[Histogram]:
    """For each request, noisy copies of one image and how many of them, its histogram of votes; in order.

    Args:
        classifier: the base classifier f.
        requests: sizes ≥ 1; those of one stream take its copies in turn.
        shape: [C, H, W] of an image.
        batch_size: noisy copies in one call of the classifier; only the last call has fewer.
    """
    if batch_size < 1:
        raise MonteCarloError(f"batch_size: expected at least 1, got {batch_size}")
    votes: Histogram | int = 0
    for batch in _ahead(_batches(requests, tuple(shape), batch_size)):
        counts = split_votes(classifier(batch.copies), [size for size, _ in batch.parts])
        for part, (_, is_last) in zip(counts, batch.parts, strict=True):
            votes = votes + part
            if is_last:
                yield np.asarray(votes)
                votes = 0


def split_votes(scores: NDArray[np.floating[Any]], sizes: Sequence[int]) -> list[Histogram]:
    """The histogram of votes of each part of a batch, from its scores [N, K]; the sizes of the parts add up to N.

    Raises:
        MonteCarloError: scores of another shape. Votes that are missing would count as votes against every class.
    """
    parts = np.split(_votes(scores, sum(sizes)), np.cumsum(sizes)[:-1])
    return [np.bincount(part[part >= 0], minlength=scores.shape[-1]) for part in parts]


def each_by_itself(classifier: Classifier, *, share: float = 1.0) -> Classifier:
    """The classifier, until its votes are seen to depend on the other copies of a batch; from then on none.

    Votes are independent draws of f(x + η) only where f is a function of one image. A graph that somebody made may
    answer the copies of a batch together, with the class of their mean, and then as many votes agree as it likes. So
    one copy of a batch, chosen by chance, votes once more by itself. What is found before that is seen is as worthless
    as what comes after; and a graph that mixes fewer copies than rounding may explain, a thousandth, stays unseen.

    Args:
        classifier: the base classifier f.
        share: of the batches in which a vote is compared, chosen by chance.

    Raises:
        DependentVotesError: of the votes compared so far, more differ than rounding explains: 3 and a thousandth. Every
            later call raises it, too.
    """
    chance, compared, differ = np.random.default_rng(), 0, 0

    def refuse_dependent() -> None:
        if differ > 3 + compared / 1000:
            raise DependentVotesError(
                f"classifier: expected the vote of a noisy copy to depend on no other copy, got {differ} of "
                f"{compared} that it does not cast by itself: it answers the copies of a batch together, and no "
                "number of such votes proves a radius"
            )

    def answer(copies: Float32Array) -> NDArray[np.floating[Any]]:
        nonlocal compared, differ
        refuse_dependent()  # a caller who goes on after that, with the next image or question, gets no vote either
        scores = classifier(copies)
        if len(copies) > 1 and chance.random() < share:
            place = int(chance.integers(len(copies)))
            (alone,) = _votes(classifier(copies[place : place + 1]), 1)
            compared, differ = compared + 1, differ + int(alone != _votes(scores, len(copies))[place])
            refuse_dependent()
        return scores

    return answer


def _votes(scores: NDArray[np.floating[Any]], copies: int) -> NDArray[np.int64]:
    """The class that each of so many copies votes for, −1 for none."""
    if scores.ndim != 2 or len(scores) != copies:
        raise MonteCarloError(f"classifier: expected scores [{copies}, K], got {list(scores.shape)}")
    return np.where(np.isnan(scores).any(-1), -1, scores.argmax(-1))


@dataclass(frozen=True)
class _Batch:
    copies: Float32Array
    parts: list[tuple[int, bool]]
    """How many copies a request has in it, and whether they are its last."""


def _batches(requests: Iterable[tuple[Fill, int]], shape: tuple[int, ...], batch_size: int) -> Iterator[_Batch]:
    copies, filled, parts = np.empty((batch_size, *shape), np.float32), 0, list[tuple[int, bool]]()
    for fill, wanted in requests:
        if wanted < 1:
            raise MonteCarloError(f"expected sample sizes ≥ 1, got {wanted}")
        while wanted:
            size = min(wanted, batch_size - filled)
            fill(copies[filled : filled + size])
            filled, wanted = filled + size, wanted - size
            parts.append((size, not wanted))
            if filled == batch_size:
                yield _Batch(copies, parts)
                copies, filled, parts = np.empty_like(copies), 0, []
    if filled:
        yield _Batch(copies[:filled], parts)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Pass items through; each is made in another thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
