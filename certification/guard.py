"""Whether an image is like the images that a calibration saw: a conformal test on a few cheap statistics of its pixels.

A promise about radii is made for images that are drawn like the calibration images. This test notices some that are
not: inverted or broken ones, noise, another layout of the pixels in memory. It cannot notice what an honest image
might be as well.

The statistics of an image [C, H, W] are, for each channel, the mean of each quarter, and the mean squares of the image,
of its differences from row to row, from column to column, and of both. The distance is that of Mahalanobis, from the
mean and the covariance that a third of the images has; the threshold is a quantile of the distances of the others.
So an image that is exchangeable with those is refused with probability at most `Guard.level`, whatever the
distribution of images is.

References:
    Vovk, Gammerman and Shafer (2005), Algorithmic learning in a random world, section 4.1 (inductive, or split,
    conformal prediction).
    Ledoit and Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices (why to shrink).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float64Array, FloatArray

GUARD_LEVEL = 0.005
"""Probability with which an honest image may be refused, where there are enough images to set a threshold for it."""
_SHRINK_BY = 0.1
"""Share by which correlations are shrunk: a hundred images know few of them well."""
_SMALLEST_VARIANCE = 1e-10
"""Added to the variance of a statistic, which may be 0 in the images at hand: a deviation of 1/100,000."""
_FEWEST = 10
_CHUNK = 64


@dataclass(frozen=True)
class Guard:
    """Refuses images whose statistics are farther from those of the calibration images than a threshold.

    The distance is the length of W·(s − center) for the statistics s; see the module.

    Raises:
        ValueError: parts that do not fit each other, or are no finite numbers.
    """

    image_shape: tuple[int, int, int]
    """C, H, W."""
    center: tuple[float, ...]
    """Means of the F statistics, [F]."""
    whitening: tuple[tuple[float, ...], ...]
    """The lower triangle of W: row i has i + 1 numbers. W·Wᵀ's inverse is the shrunk covariance, [F, F]."""
    threshold: float
    """The largest distance that is not refused."""
    level: float
    """An image exchangeable with those that set the threshold is refused with at most this probability."""
    images: int
    """Images that set the threshold."""

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        size = sum(_sizes(self.image_shape))
        numbers = [*self.center, *(value for row in self.whitening for value in row), self.threshold]
        if len(self.center) != size or [len(row) for row in self.whitening] != list(range(1, size + 1)):
            raise ValueError(f"guard: expected a center of {size} numbers and as many rows, got {len(self.center)}")
        if not all(map(math.isfinite, numbers)) or self.threshold < 0 or not 0 < self.level < 1:
            raise ValueError("guard: expected finite numbers, a threshold of at least 0 and a level between 0 and 1")

    @property
    def matrix(self) -> Float64Array:
        """W, [F, F]."""
        rows = np.zeros((len(self.center), len(self.center)))
        rows[np.tril_indices(len(rows))] = np.concatenate(self.whitening)
        return rows

    def distance(self, images: FloatArray) -> Float64Array:
        """Distance of each image [N, C, H, W], pixels in [0,1], float64 [N]; NaN where a pixel is none.

        Raises:
            ValueError: images of another shape.
        """
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"images: expected shape [N, *{list(self.image_shape)}], got {list(images.shape)}")
        apart = statistics(images) - np.array(self.center)
        return np.asarray(np.sqrt(np.square(apart @ self.matrix.T).sum(1)))

    def refuses(self, images: FloatArray) -> NDArray[np.bool_]:
        """Which of the images [N, C, H, W] are refused, [N]: an image with NaN among them."""
        return np.asarray(~(self.distance(images) <= self.threshold))


def fit_guard(images: FloatArray, *, level: float = GUARD_LEVEL) -> Guard:
    """The guard whose center and covariance come from the first third of the images, its threshold from the others.

    The threshold is the k-th smallest of the n distances of these, k = ⌈(n + 1)(1 − level)⌉, or the largest where n is
    too small for that. An image exchangeable with the n is refused with probability at most (n + 1 − k)/(n + 1).

    Args:
        images: [N, C, H, W], pixels in [0,1], in random order.
        level: probability with which an honest image may be refused, between 0 and 1.

    Raises:
        HeatserveError: fewer than 10 images, or pixels that are no numbers.
    """
    if len(images) < _FEWEST:
        raise HeatserveError(
            f"images: expected at least {_FEWEST} that others are compared with, got {len(images)}; use more "
            f"calibration images"
        )
    broken = int((~np.isfinite(images)).any((1, 2, 3)).sum())
    if broken:
        raise HeatserveError(f"images: expected pixels that are numbers, got {broken} images with others")
    first, others = images[: len(images) // 3], images[len(images) // 3 :]
    known = statistics(first)
    covariance = np.atleast_2d(np.cov(known.T, bias=True))
    variance = np.diag(covariance) + _SMALLEST_VARIANCE
    shrunk = (1 - _SHRINK_BY) * covariance
    np.fill_diagonal(shrunk, variance)
    center, rows = known.mean(0), np.linalg.inv(np.linalg.cholesky(shrunk))
    distances = np.sort(np.sqrt(np.square((statistics(others) - center) @ rows.T).sum(1)))
    n = len(others)
    k = min(n, math.ceil((n + 1) * (1 - level)))
    return Guard(
        image_shape=(images.shape[1], images.shape[2], images.shape[3]),
        center=tuple(center.tolist()),
        whitening=tuple(tuple(row[: i + 1].tolist()) for i, row in enumerate(rows)),
        threshold=float(distances[k - 1]),
        level=(n + 1 - k) / (n + 1),
        images=n,
    )


def statistics(images: FloatArray) -> Float64Array:
    """The F statistics of each image [N, C, H, W], float64 [N, F]: means of blocks, then mean squares.

    An axis of one pixel has one block and no differences.
    """
    if not len(images):
        return np.zeros((0, sum(_sizes(images.shape[1:]))))
    parts = [images[start : start + _CHUNK].astype(np.float64) for start in range(0, len(images), _CHUNK)]
    return np.concatenate([np.hstack([_block_means(part), _mean_squares(part)]) for part in parts])


def blocks(size: int) -> tuple[int, int]:
    """Length and stride of the blocks along an axis: two halves, which share the middle pixel of an odd size."""
    return (size - size // 2, size // 2) if size > 1 else (1, 1)


def _sizes(image_shape: tuple[int, ...]) -> tuple[int, int]:
    """How many of the statistics are means of blocks, and how many are mean squares."""
    channels, *sides = image_shape
    halved = channels * 2 ** sum(side > 1 for side in sides)
    return halved, halved


def _block_means(images: Float64Array) -> Float64Array:
    means = images
    for axis in (2, 3):
        length, stride = blocks(images.shape[axis])
        starts = range(0, images.shape[axis] - length + 1, stride)
        means = np.stack([means.take(range(at, at + length), axis).mean(axis) for at in starts], axis)
    return means.reshape(len(images), -1)


def _mean_squares(images: Float64Array) -> Float64Array:
    for axis in (2, 3):
        if images.shape[axis] > 1:
            kept = images.take(range(images.shape[axis] - 1), axis)
            images = np.concatenate([kept, np.diff(images, axis=axis)], axis=1)
    return np.asarray(np.square(images).mean((2, 3)))
