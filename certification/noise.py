"""Where the noise of Monte Carlo certification comes from: float32 Gaussians, or a sound sampler for 8-bit images.

Cohen's theorem speaks of real numbers. In float32, x + η keeps traces of x in its last bits, and a classifier that
reads them can be certified within a radius in which it answers otherwise. `GRID` closes that hole.

References:
    Voráček and Hein (2023), Sound randomized smoothing in floating-point arithmetic, ICLR.
    Jin, Ohrimenko and Rubinstein (2022), Getting a-round guarantees: floating-point attacks on certified robustness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float32Array

LEVELS = 255
"""Grey levels between black and white: an 8-bit image lies on the grid of multiples of 1/255."""

Fill = Callable[[Float32Array], None]
"""Overwrites an array float32 [M, C, H, W] with the next M noisy copies of one image."""


class NoiseError(HeatserveError):
    """An image or a standard deviation that a noise source cannot sample for."""


class NoiseSource(Protocol):
    """Makes noisy copies x + η of an image, η ~ N(0, σ²I)."""

    @property
    def key(self) -> str:
        """Its name in cards, ledgers and options; `source_of` finds it by that."""

    @property
    def described(self) -> str:
        """For a reader: how it samples, and what that leaves open."""

    def suits(self, image: Float32Array) -> bool:
        """Whether `copies` takes the image [C, H, W]."""

    def copies(self, image: Float32Array, *, sigma: float, entropy: np.random.SeedSequence) -> Fill:
        """A stream of noisy copies of x [C, H, W], the same however many are taken at a time.

        Args:
            image: x, float32 [C, H, W].
            sigma: standard deviation of the noise.
            entropy: what the stream is drawn from, and nothing else may be. Where somebody else chooses the image it
                must be a secret of this one question: `np.random.SeedSequence()`, which asks the operating system.

        Raises:
            NoiseError: the image does not suit, or no noise of this σ can be sampled.
        """

    def variation(self, coordinates: int, *, sigma: float) -> float:
        """Bound on the total variation distance of one noisy copy from its exact distribution."""


def grey_levels(radius: float) -> float:
    """An L2 radius on pixels in [0,1], in grey levels of 8 bits."""
    return radius * LEVELS


class Float32Noise:
    """x + σ·η in float32, η from numpy's float32 normal sampler on a Philox counter.

    Nothing is proven about what float32 rounding does to the certificate: `variation` is 0 by assumption.
    """

    key = "float32"
    described = "float32 Gaussian noise; the attack of Voráček and Hein (2023) is not excluded"

    def suits(self, image: Float32Array) -> bool:  # noqa: ARG002
        """Every image does."""
        return True

    def copies(self, image: Float32Array, *, sigma: float, entropy: np.random.SeedSequence) -> Fill:
        """Copies of any image, x + σ·η in float32; see `NoiseSource`."""
        generator = np.random.Generator(np.random.Philox(entropy))

        def fill(out: Float32Array) -> None:
            generator.standard_normal(dtype=np.float32, out=out)
            np.multiply(out, np.float32(sigma), out=out)
            np.add(out, image, out=out)

        return fill

    def variation(self, coordinates: int, *, sigma: float) -> float:  # noqa: ARG002
        """It is 0 by assumption."""
        return 0.0


class GridNoise:
    """round(x + η) for an 8-bit image x, rounded to the grid of multiples of 1/255: sound in floating point.

    What is proven: let h = f∘round be the base classifier, a function of real vectors. For x = k/255, k integers,
    round(x + η) = (k + N)/255, where the coordinates of N are independent with
    P(N = j) = Φ((j + ½)/s) − Φ((j − ½)/s), s = 255σ (Voráček and Hein). N is sampled in integer arithmetic,
    within `variation` of that distribution, for perfectly random bits. So votes at x are votes of h at x + η, and
    Certify's theorem holds for h, at x and at every real x + δ. What remains assumed: Philox bits are as good as random
    ones, and f, which sees float32(k + N)/255, is a function: it answers the same integers with the same class.

    Sampling: a coordinate's first 16 random bits decide N, through a table, unless a step of the distribution function
    lies among the numbers that begin with them; then 48 more bits do.
    """

    key = "grid"
    described = "8-bit grid, integer noise with exact probabilities (Voráček and Hein 2023): sound in floating point"

    def suits(self, image: Float32Array) -> bool:
        """8-bit images do: all pixels are multiples of 1/255 from 0 to 1, in float32."""
        return not _grey(image)[1].any()

    def copies(self, image: Float32Array, *, sigma: float, entropy: np.random.SeedSequence) -> Fill:
        """Copies of an 8-bit image; see `NoiseSource`. The classifier sees float32(k + N)/255.

        Raises:
            NoiseError: a pixel that is no multiple of 1/255, or a σ whose noise exceeds 16-bit integers.
        """
        levels, off = _grey(image)
        if off.any():
            raise NoiseError(
                f"expected an 8-bit image, multiples of 1/255 from 0 to 1, got {np.asarray(image)[off][0]!s} among "
                f"{off.sum()} of {off.size} values that are not"
            )
        table = _table(sigma)
        words, refinements = (
            np.random.Generator(np.random.Philox(source)) for source in (entropy, _first_child(entropy))
        )
        quads = -(-image.size // 4)  # a 64-bit draw has four words; each copy starts with a fresh one

        def fill(out: Float32Array) -> None:
            for start in range(0, len(out), _AT_ONCE):
                part = out[start : start + _AT_ONCE]
                first = _bits(words, len(part) * quads).view("<u2").reshape(len(part), -1)[:, : image.size]
                noise = table.sample(first.ravel(), refinements).reshape(part.shape)
                np.divide(np.add(noise, levels, out=noise), np.float32(LEVELS), out=part)

        return fill

    def variation(self, coordinates: int, *, sigma: float) -> float:
        """`coordinates` times the error of one: its thresholds are off by at most 2⁻⁶⁴ each, its tails by as much."""
        return coordinates * (2 * _reach(sigma) + 2) * 2.0**-64


FLOAT32 = Float32Noise()
"""float32 samples, as in the papers: an assumption about them stands on the card."""
GRID = GridNoise()
"""Samples that are sound in floating point, for 8-bit images."""
SOURCES: dict[str, NoiseSource] = {source.key: source for source in (FLOAT32, GRID)}
"""Every noise source by its key."""
FORMER_KEYS = {
    "float32 Gaussian noise; the attack of Voráček and Hein (2023) is not excluded": "float32",
    "8-bit grid, integer noise with exact probabilities (Voráček and Hein 2023): sound in floating point": "grid",
}
"""Cards and ledgers that name a source by one of these sentences, as the first ones do, are still read."""


def source_of(key: str) -> NoiseSource:
    """The noise source with a key.

    Raises:
        NoiseError: there is none.
    """
    if key not in SOURCES:
        raise NoiseError(f"sampling: expected one of {', '.join(SOURCES)}, got {key}")
    return SOURCES[key]


def _grey(image: Float32Array) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """k [C, H, W], from float32 k/255 whatever way it was rounded, and where a pixel is no such number."""
    scaled = np.asarray(image, dtype=np.float64) * LEVELS
    with np.errstate(invalid="ignore"):
        levels = np.rint(scaled)
        off = ~((np.abs(scaled - levels) <= 1e-4) & (levels >= 0) & (levels <= LEVELS))
        return np.asarray(levels, dtype=np.int16), off


def _first_child(entropy: np.random.SeedSequence) -> np.random.SeedSequence:
    """What `entropy.spawn(1)` gives the first time, and every time: it changes nothing in `entropy`."""
    return np.random.SeedSequence(entropy.entropy, spawn_key=(*entropy.spawn_key, 0), pool_size=entropy.pool_size)


def _bits(generator: np.random.Generator, count: int) -> NDArray[np.uint64]:
    return generator.integers(0, 2**64, size=count, dtype=np.uint64).astype("<u8", copy=False)


_AT_ONCE = 16  # copies: what is between two steps stays in the cache
_AMBIGUOUS = np.int16(np.iinfo(np.int16).min)


@dataclass(frozen=True)
class _Table:
    """The distribution of N: N > j where a uniform 64-bit integer is at least the threshold of j."""

    thresholds: NDArray[np.uint64]
    """2⁶⁴·Φ((j + ½)/s), ascending, for j = −J … J − 1."""
    by_word: NDArray[np.int16]
    """N for each value of the upper 16 bits [65536], or `_AMBIGUOUS` where the lower bits decide."""

    def sample(self, words: NDArray[np.uint16], refinements: np.random.Generator) -> NDArray[np.int16]:
        """N for upper bits [M]; the lower ones, where they are needed, from `refinements`, in order."""
        noise = np.take(self.by_word, words)
        where = np.flatnonzero(noise == _AMBIGUOUS)
        lower = _bits(refinements, len(where)) >> np.uint64(16)
        noise[where] = self._look_up((words[where].astype(np.uint64) << np.uint64(48)) | lower)
        return noise

    def _look_up(self, uniform: NDArray[np.uint64]) -> NDArray[np.int16]:
        steps = np.searchsorted(self.thresholds, uniform, side="right")
        return np.asarray(steps - len(self.thresholds) // 2, dtype=np.int16)


def _reach(sigma: float) -> int:
    """J: N is from −J to J."""
    reach = math.ceil(_CUT * LEVELS * sigma) + 1
    if not 0 < reach <= np.iinfo(np.int16).max - LEVELS:
        raise NoiseError(f"sigma: expected a number above 0 and at most 13, got {sigma}")
    return reach


@cache
def _table(sigma: float) -> _Table:
    """The table of one σ; tails lighter than 2⁻⁶⁴ are cut."""
    import mpmath  # here, since most processes of a server need no table

    reach = _reach(sigma)
    exact = mpmath.MPContext()  # of our own: anybody may change the precision of mpmath's global context
    exact.dps = 50
    steps = (exact.ncdf((j + exact.mpf(0.5)) / (LEVELS * exact.mpf(sigma))) for j in range(reach))  # Φ((j + ½)/s)
    above = [min(int(exact.nint(p * 2**64)), 2**64 - 1) for p in steps]
    thresholds = np.array([2**64 - t for t in reversed(above)] + above, dtype=np.uint64)  # Φ(−z) = 1 − Φ(z)
    low = np.arange(2**16, dtype=np.uint64) << np.uint64(48)
    table = _Table(thresholds, np.empty(0, np.int16))
    first, last = table._look_up(low), table._look_up(low | np.uint64(2**48 - 1))
    return _Table(thresholds, np.where(first == last, first, _AMBIGUOUS))


_CUT = 9.2
"""The cut in units of σ: 2·Φ(−9.2) < 2⁻⁶⁴."""
