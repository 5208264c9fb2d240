"""Why the noise of a request has to be secret: an adversary who knows it has a wrong class confirmed at will.

A classifier whose Gaussian average is known exactly. A pixel of grey level k sets its bit where k mod 4 < 2, and the
class is 1 where at least t of the d bits are set. Under noise of many grey levels each bit is a fair coin, whatever the
image (within 10⁻¹⁰⁰⁰), so class 1 has the same probability q = P(Binomial(d, ½) ≥ t) at every image. With q < ½, class
0 is the smoothed classifier's everywhere, and is certifiable at every radius below σ·Φ⁻¹(1 − q).

Who knows the noise can move each pixel by one grey level so that all the noisy copies that are going to be drawn vote
for class 1. Fresh noise knows nothing of that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from heatserve.benchmarks.records.attack_tiers import KnownSeed
from heatserve.certification.confirming import confirm, votes_needed
from heatserve.certification.noise import GRID, LEVELS
from heatserve.certification.outcome import Outcome
from heatserve.certification.radius import Float32Array
from heatserve.certification.voting import streams

_SHAPE = (1, 16, 16)
_BITS = int(np.prod(_SHAPE))
_PERIOD = 4  # grey levels
_ENOUGH = 134  # t: q is then about ¼
SIGMA, RADIUS, ALPHA = 0.25, 0.125, 1e-6
"""Of the demonstration: class 0 is certifiable at this radius, everywhere."""
_SHIFTS = (-1, 0, 1)  # grey levels; the first and the last set the bit in opposite cases


def stripes(images: Float32Array) -> NDArray[np.float64]:
    """The classifier: scores [N, 2] of images float32 [N, 1, 16, 16], at any grey levels."""
    levels = np.rint(np.asarray(images, dtype=np.float64) * LEVELS).reshape(len(images), -1)
    votes = (levels % _PERIOD < _PERIOD // 2).sum(1) - (_ENOUGH - 0.5)
    return np.stack([-votes, votes], axis=1)


def probability_of_one() -> float:
    """q, the probability of a vote for class 1 at every image."""
    return float(binom.sf(_ENOUGH - 1, _BITS, 0.5))


def against_known_noise(image: Float32Array, noise: NDArray[np.int64], *, seed: int) -> Float32Array:
    """An image within one grey level a pixel of `image` [1, 16, 16], all of whose known noisy copies vote for class 1.

    Pixel by pixel the shift is chosen that lowers Σ exp(−margin of a copy / 4), until no pixel changes any more.

    Args:
        image: 8-bit, of grey levels 1 to 254.
        noise: the known noise in grey levels, [M, 256].
        seed: decides the order of the pixels.
    """
    levels = np.rint(image.reshape(-1).astype(np.float64) * LEVELS).astype(np.int64)
    bits = np.stack([(levels + shift + noise) % _PERIOD < _PERIOD // 2 for shift in _SHIFTS]).astype(np.int64)
    chosen, order = np.full(_BITS, 1), np.random.default_rng(seed)
    margins, before = bits[1].sum(1) - (_ENOUGH - 0.5), None
    while before is None or (chosen != before).any():
        before = chosen.copy()
        for pixel in order.permutation(_BITS):
            others = margins - bits[chosen[pixel], :, pixel]
            best = int(np.exp(-(others + bits[:, :, pixel]) / 4).sum(1).argmin())
            chosen[pixel], margins = best, others + bits[best, :, pixel]
    found: Float32Array = ((levels + np.array(_SHIFTS)[chosen]) / np.float32(LEVELS)).astype(np.float32)
    return found.reshape(image.shape)


def show_known_seed(*, images: int = 20, asks: int = 50, seed: int = 0) -> KnownSeed:
    """Attack random images against confirm with noise that the adversary knows, and ask the same inputs with fresh
    noise.

    Args:
        images: clean images; class 0 is certifiable at `RADIUS` at each of them.
        asks: how often each input is asked with fresh noise.
        seed: what the adversary knows, and what the images are drawn from.
    """
    levels = np.random.default_rng(seed).integers(1, LEVELS, size=(images, *_SHAPE))
    clean = (levels / np.float32(LEVELS)).astype(np.float32)
    copies = 2 * votes_needed(RADIUS, sigma=SIGMA, alpha=ALPHA)  # whenever the rule looks, all of them agree
    found = np.stack(
        [
            against_known_noise(image, _known_noise(copies, seed=seed, index=index), seed=seed)
            for index, image in enumerate(clean)
        ]
    )
    return KnownSeed(
        sigma=SIGMA,
        radius=RADIUS,
        alpha=ALPHA,
        largest_distance=float(np.linalg.norm((found - clean).reshape(images, -1).astype(np.float64), axis=1).max()),
        probability=probability_of_one(),
        images=images,
        confirmed_with_known_seed=_confirmed(found, seed=seed),
        fresh_questions=images * asks,
        confirmed_with_fresh_noise=sum(_confirmed(found, seed=None) for _ in range(asks)),
    )


def _known_noise(copies: int, *, seed: int, index: int) -> NDArray[np.int64]:
    """What the noise of (seed, index) adds to any image, in grey levels [copies, 256]."""
    black = np.zeros(_SHAPE, dtype=np.float32)
    drawn = np.empty((copies, *_SHAPE), dtype=np.float32)
    (fill,) = streams(black[None], indices=[index], sigma=SIGMA, seed=seed, noise=GRID)
    fill(drawn)
    noise: NDArray[np.int64] = np.rint(drawn.reshape(copies, -1).astype(np.float64) * LEVELS).astype(np.int64)
    return noise


def _confirmed(images: Float32Array, *, seed: int | None) -> int:
    """For how many of the images confirm says yes to class 1."""
    one: Sequence[int] = [1] * len(images)
    answers = confirm(stripes, images, one, radius=RADIUS, sigma=SIGMA, alpha=ALPHA, seed=seed, noise=GRID)
    return sum(answer.outcome is Outcome.YES for answer in answers)
