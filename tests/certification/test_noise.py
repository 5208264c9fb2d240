"""The sound sampler against exact probabilities, and the attack on float32 noise that it shuts out."""

from __future__ import annotations

from decimal import Decimal, localcontext
from hashlib import sha256

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare, norm

from heatserve.certification.monte_carlo import ABSTAIN, Certificate, certify
from heatserve.certification.noise import FLOAT32, GRID, LEVELS, NoiseError, NoiseSource, grey_levels
from heatserve.certification.radius import Float32Array

SIGMA = 0.25
SHAPE = (3, 32, 32)


def flat(level: int, shape: tuple[int, ...] = SHAPE) -> Float32Array:
    """One image, all of one grey level."""
    return np.full(shape, level / LEVELS, np.float32)


def drawn(
    noise: NoiseSource, image: Float32Array, count: int, *, index: int = 0, seed: int = 0, sigma: float = SIGMA
) -> Float32Array:
    out = np.empty((count, *image.shape), np.float32)
    noise.copies(image, sigma=sigma, entropy=np.random.SeedSequence([seed, index]))(out)
    return out


def test_float32_noise_is_that_of_numpy_on_the_stream_of_seed_and_index() -> None:
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([3, 8])))
    expected = image + np.float32(SIGMA) * generator.standard_normal((5, *SHAPE), dtype=np.float32)
    assert np.array_equal(drawn(FLOAT32, image, 5, seed=3, index=8), expected)


def test_a_stream_of_seed_and_index_has_been_the_same_since_the_first_certificates() -> None:
    """Ledgers and cards hold what these streams proved: their integers are compared with those of the first version."""
    levels = np.rint(drawn(GRID, flat(100), 40, seed=3, index=8) * LEVELS).astype("<i2") - 100
    assert levels.ravel()[:12].tolist() == [-12, 52, -40, 17, -76, -2, -3, -5, 25, 45, 4, 1]
    assert sha256(levels.tobytes()).hexdigest() == "80444f67d58b75d95c401c6716d7a2face0c5cc9d3021623f35cd55008614ecb"


@pytest.mark.parametrize("noise", [FLOAT32, GRID])
def test_fresh_entropy_gives_other_noise_and_is_left_as_it_is(noise: NoiseSource) -> None:
    entropies = [np.random.SeedSequence() for _ in range(3)]
    outs = np.empty((4, 10, *SHAPE), np.float32)
    for entropy, out in zip([*entropies, entropies[0]], outs, strict=True):
        noise.copies(flat(9), sigma=SIGMA, entropy=entropy)(out)
    assert np.array_equal(outs[0], outs[3])  # nothing was spawned from it in between
    noises = (outs[:3] - outs[0, 0, 0, 0, 0]).reshape(3, -1)
    correlations = np.corrcoef(noises)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(noises.shape[1])


@pytest.mark.parametrize("sigma", [0.001, 0.01, 0.25, 1.0])
def test_grid_noise_has_the_probabilities_of_a_rounded_gaussian(sigma: float) -> None:
    noise = np.rint(drawn(GRID, flat(100), 300, seed=7, sigma=sigma).astype(float) * LEVELS).astype(int) - 100
    edge = max(1, round(2.5 * sigma * LEVELS))
    middle = np.arange(-edge, edge + 1)
    steps = norm.cdf((np.append(middle, edge + 1) - 0.5) / (sigma * LEVELS))
    probabilities = np.concatenate([steps[:1], np.diff(steps), 1 - steps[-1:]])
    counts = np.bincount(np.clip(noise.ravel() + edge + 1, 0, 2 * edge + 2), minlength=2 * edge + 3)
    likely = probabilities * noise.size > 5
    assert counts[~likely].sum() <= 100
    expected = probabilities[likely] / probabilities[likely].sum() * counts[likely].sum()
    assert chisquare(counts[likely], expected).pvalue > 0.001


def test_words_that_need_more_bits_are_refined_by_them() -> None:
    """Given a word that has a step of the distribution function inside its cell, N is split where the step is."""
    from heatserve.certification.noise import _table  # the exact steps are promised nowhere else

    table = _table(1.2 / LEVELS)
    steps = table.thresholds.astype(np.float64) / 2.0**64
    reach = len(steps) // 2
    assert steps == pytest.approx(norm.cdf((np.arange(-reach, reach) + 0.5) / 1.2), abs=1e-15)
    word = np.flatnonzero(table.by_word == np.iinfo(np.int16).min)[-3]  # a step lies somewhere inside this cell
    step = table.thresholds[table.thresholds >> np.uint64(48) == word]
    assert len(step) == 1
    share = float(step[0] & np.uint64(2**48 - 1)) / 2.0**48
    found = table.sample(np.full(100_000, word, np.uint16), np.random.Generator(np.random.Philox(5)))
    below, above = np.unique(found)
    assert above == below + 1
    assert np.mean(found == below) == pytest.approx(share, abs=0.01)


def exact_normal_cdf(z: Decimal) -> Decimal:
    """Φ(z), 0 ≤ z ≤ 10, to 40 digits: ½ + φ(z)·Σ z^(2k+1)/(1·3·…·(2k+1)), whose terms are all positive."""
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582")
    term, total, k = z, Decimal(0), 0
    while term > Decimal("1e-50"):
        total, k = total + term, k + 1
        term *= z * z / (2 * k + 1)
    return Decimal("0.5") + total * (-z * z / 2).exp() / (2 * pi).sqrt()


@pytest.mark.parametrize("sigma", [0.001, 1.2 / LEVELS, 0.1, 0.25, 1 / 3, 0.5, 1.0])
def test_every_step_of_the_table_is_the_nearest_integer_to_its_exact_value(sigma: float) -> None:
    """2⁶⁴·Φ((j + ½)/s) by another series and another library, bit for bit."""
    from heatserve.certification.noise import _table

    found = _table(sigma).thresholds
    reach = len(found) // 2
    with localcontext() as context:
        context.prec = 50
        steps = [exact_normal_cdf((j + Decimal("0.5")) / (LEVELS * Decimal(sigma))) for j in range(reach)]
        above = [min(int((p * 2**64).to_integral_value()), 2**64 - 1) for p in steps]
    assert found[reach:].tolist() == above
    assert found[:reach].tolist() == [2**64 - step for step in reversed(above)]
    assert above[-1] == 2**64 - 1  # what is cut off is lighter than one part in 2⁶⁴


@pytest.mark.parametrize("noise", [FLOAT32, GRID])
@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 5)])
def test_a_stream_is_the_same_however_it_is_cut(noise: NoiseSource, shape: tuple[int, ...]) -> None:
    at_once = drawn(noise, flat(9, shape), 70)
    entropy = np.random.SeedSequence([0, 0])
    fill, pieces = noise.copies(flat(9, shape), sigma=SIGMA, entropy=entropy), np.empty_like(at_once)
    for start, stop in ((0, 1), (1, 8), (8, 41), (41, 70)):
        fill(pieces[start:stop])
    assert np.array_equal(pieces, at_once)
    assert not np.array_equal(drawn(noise, flat(9, shape), 70, index=1), at_once)
    assert not np.array_equal(drawn(noise, flat(9, shape), 70, seed=1), at_once)


def test_the_classifier_sees_the_nearest_float32_of_a_grid_point_even_off_the_unit_interval() -> None:
    seen = drawn(GRID, flat(250), 4)
    levels = np.rint(seen * LEVELS)
    assert np.array_equal(seen, levels.astype(np.float32) / np.float32(LEVELS))
    assert levels.max() > LEVELS


@pytest.mark.parametrize("value", [0.5, -1 / 255, 256 / 255, np.nan])
def test_an_image_off_the_grid_is_refused_by_name(value: float) -> None:
    image = flat(3)
    image[1, 2, 3] = value
    assert not GRID.suits(image)
    assert FLOAT32.suits(image)
    with pytest.raises(NoiseError, match=r"image 17: expected an 8-bit image.*among 1 of 3072 values"):
        list(certify(has_fine_bits, image[None], indices=[17], sigma=SIGMA, noise=GRID))
    with pytest.raises(NoiseError, match=r"^expected an 8-bit image"):
        GRID.copies(image, sigma=SIGMA, entropy=np.random.SeedSequence())


@pytest.mark.parametrize("level", [0, 1, 17, 254, 255])
def test_an_8_bit_image_suits_the_grid_however_its_pixels_were_rounded(level: int) -> None:
    assert GRID.suits(flat(level))
    for towards in (0, 1):
        assert GRID.suits(np.nextafter(flat(level), np.float32(towards)))


def test_noise_that_16_bits_cannot_hold_is_refused() -> None:
    with pytest.raises(NoiseError, match="sigma: expected a number above 0 and at most 13, got 20"):
        GRID.variation(1, sigma=20.0)


def test_what_inexact_sampling_can_cost_is_taken_from_alpha() -> None:
    error = GRID.variation(3072, sigma=SIGMA)
    assert 0 < error < 1e-12
    assert error == pytest.approx(3072 * GRID.variation(1, sigma=SIGMA))
    assert FLOAT32.variation(3072, sigma=SIGMA) == 0
    with pytest.raises(ValueError, match=r"alpha: expected a number between [\d.e-]+ and 1, got 1e-11"):
        list(certify(has_fine_bits, flat(0)[None], sigma=SIGMA, alpha=1e-11, noise=GRID))


def test_grey_levels_are_255_times_pixels() -> None:
    assert grey_levels(0.5) == 127.5


def has_fine_bits(images: Float32Array) -> NDArray[np.float64]:
    """Class 0 where any pixel is no multiple of 2⁻³², else class 1.

    Black plus noise has such pixels: float32 resolves small numbers finely. At 1/255 the sum has lost those bits.
    """
    scaled = images.reshape(len(images), -1).astype(np.float64) * 2.0**32
    fine = (scaled != np.floor(scaled)).any(1)
    return np.array([fine, ~fine], dtype=float).T


@pytest.mark.parametrize("noise", [FLOAT32, GRID])
def test_low_bits_break_certificates_of_float32_noise_and_none_of_the_grid(noise: NoiseSource) -> None:
    """Black and the darkest grey are √3072/255 = 0.22 apart: no two sound certificates may deny each other."""
    pair = np.stack([flat(0), flat(1)])
    distance = float(np.linalg.norm(pair[1] - pair[0]))
    black, grey = certify(has_fine_bits, pair, sigma=SIGMA, n0=20, n=300, noise=noise)
    broken = black.label != grey.label and max(_reach(black), _reach(grey)) > distance
    assert broken == (noise is FLOAT32)


def _reach(certificate: Certificate) -> float:
    return 0.0 if certificate.label == ABSTAIN else certificate.radius
