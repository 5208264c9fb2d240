"""Cases that are hard for a certificate: logits of every size, ties, logits one float32 step from where an answer
changes, images one step from where a guard refuses them, and logits and pixels that are no numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from heatserve.certification.guard import Guard
from heatserve.certification.radius import Float32Array, Float64Array, RadiusMap, score_fractions
from heatserve.serving.conformance.probe import REACH

_STEPS = 3  # float32 steps around a tie, a half or a threshold
_ABSENT = -80.0  # the logit of a class whose probability does not count


def hard_logits(radius_map: RadiusMap, *, classes: int, count: int, rng: np.random.Generator) -> Float32Array:
    """`count` rows of numbers from −128 to 128, float32 [count, K], in equal shares of every family below."""

    def thresholds(count: int, classes: int, rng: np.random.Generator) -> Float64Array:
        return _around_thresholds(radius_map, count, classes, rng)

    families: tuple[Callable[[int, int, np.random.Generator], Float64Array], ...] = (
        _every_scale,
        _dominant,
        _extreme,
        _tied,
        _nearly_uniform,
        _two_classes,
        _around_one_half,
        thresholds,
    )
    sizes = [len(part) for part in np.array_split(np.arange(count), len(families))]
    rows = np.concatenate([family(size, classes, rng) for family, size in zip(families, sizes, strict=True)])
    return np.asarray(rng.permutation(_limited(rows)))


def nonsense_logits(classes: int) -> Float32Array:
    """What a broken network answers, [6, K]; the last row, with one −∞, has a softmax all the same."""
    logits = np.zeros((6, classes), np.float32)
    logits[0, 0] = logits[1] = np.nan
    logits[2, -1] = logits[3, :2] = np.inf
    logits[4] = -np.inf
    logits[5, 0] = -np.inf
    return logits


def with_invalid_pixels(images: NDArray[Any], values: Sequence[float]) -> NDArray[Any]:
    """Images that are valid but for their first or last pixel: each of `values` at each of the two."""
    spoiled: NDArray[Any] = images[np.arange(2 * len(values)) % len(images)]
    flat = spoiled.reshape(len(spoiled), images[0].size)
    flat[::2, 0] = flat[1::2, -1] = values
    return spoiled


def around_guard(guard: Guard, images: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Images [N, C, H, W] on the way from accepted ones to refused ones, within a few steps of where that changes.

    None where the images are all accepted or all refused, as a few may be.
    """
    refused = guard.refuses(images)
    if refused.all() or not refused.any():
        return images[:0]
    near = images[rng.choice(np.flatnonzero(~refused), len(images))].astype(np.float64)
    far = images[rng.choice(np.flatnonzero(refused), len(images))].astype(np.float64)
    low, high = np.zeros(len(images)), np.ones(len(images))

    def at(share: Float64Array) -> Float32Array:
        return np.asarray(near + share[:, None, None, None] * (far - near), np.float32)

    for _ in range(30):
        middle = (low + high) / 2
        out = guard.refuses(at(middle))
        low, high = np.where(out, low, middle), np.where(out, middle, high)
    return at(np.clip(high + (high - low) * rng.integers(-_STEPS, _STEPS + 1, len(images)), 0, 1))


def signed_map(classes: int, rng: np.random.Generator) -> RadiusMap:
    """A map as calibration might fit one: weights of any sign, thresholds where scores are."""
    weights = 30 * rng.standard_normal((3, 8))
    p = softmax(_every_scale(2000, classes, rng), axis=1)
    scores = (score_fractions(p[p.max(1) > 0.5]) * weights).sum((1, 2))
    thresholds = np.quantile(scores, (0.2, 0.4, 0.6, 0.8))
    return RadiusMap(tuple(map(tuple, weights.tolist())), tuple(thresholds.tolist()), (0.125, 0.25, 0.5, 0.75))


def _every_scale(count: int, classes: int, rng: np.random.Generator) -> Float64Array:
    return np.asarray(rng.standard_normal((count, classes)) * np.exp(rng.uniform(-7, 4, (count, 1))))


def _dominant(count: int, classes: int, rng: np.random.Generator) -> Float64Array:
    logits = _every_scale(count, classes, rng)
    logits[:, 0] += rng.uniform(0, REACH, count)
    return logits


def _extreme(count: int, classes: int, rng: np.random.Generator) -> Float64Array:
    return np.asarray(rng.choice([-80.0, 0.0, 80.0], (count, classes), p=rng.dirichlet(np.ones(3))))


def _tied(count: int, classes: int, rng: np.random.Generator) -> Float64Array:
    """Two classes at the top, or a few steps apart."""
    logits = _every_scale(count, classes, rng)
    logits[:, 0] = logits.max(1)
    logits[:, 1] = _nudged(logits[:, 0], rng)
    return logits


def _nearly_uniform(count: int, classes: int, rng: np.random.Generator) -> Float64Array:
    return np.asarray(rng.uniform(-1e-6, 1e-6, (count, classes)))


def _two_classes(count: int, classes: int, rng: np.random.Generator) -> Float64Array:
    logits = np.full((count, classes), _ABSENT)
    logits[:, :2] = rng.standard_normal((count, 2)) * np.exp(rng.uniform(-10, 3, (count, 1)))
    return logits


def _around_one_half(count: int, classes: int, rng: np.random.Generator) -> Float64Array:
    """p₍₁₎ within a few steps of ½."""
    logits = np.zeros((count, classes))
    logits[:, 0] = _nudged(np.full(count, np.log(classes - 1)), rng)
    return logits


def _around_thresholds(radius_map: RadiusMap, count: int, classes: int, rng: np.random.Generator) -> Float64Array:
    """Within a few steps of where the radius changes: bisection along a ray from the uniform distribution."""
    direction = rng.standard_normal((count, classes))
    first, second = -np.sort(-direction, axis=1)[:, :2].T
    low, high = np.zeros(count), rng.uniform(0, 30, count) / (first - second)

    def radius(at: Float64Array) -> Float32Array:
        return radius_map(softmax(_limited(at[:, None] * direction).astype(np.float64), axis=1))

    there = radius(high)
    for _ in range(40):
        middle = (low + high) / 2
        same = radius(middle) == there
        low, high = np.where(same, low, middle), np.where(same, middle, high)
    logits: Float64Array = high[:, None] * direction
    logits[:, 0] = _nudged(logits[:, 0], rng)
    return logits


def _nudged(values: Float64Array, rng: np.random.Generator) -> Float64Array:
    """Moved by up to three float32 steps either way."""
    nearest = values.astype(np.float32)
    return np.asarray(nearest + np.spacing(nearest) * rng.integers(-_STEPS, _STEPS + 1, len(values)), np.float64)


def _limited(logits: Float64Array) -> Float32Array:
    return np.asarray(np.clip(logits, -REACH, REACH), np.float32)
