"""Bounds on the norm of a convolution: never below it, close to it, and proven by something that can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.operator_norm import _gram_band, _is_above, convolution_norm


def true_norm(kernel: NDArray[Any], size: int) -> float:
    """By singular values of the whole matrix, which is filled in by moving the kernel over an image."""
    out, into, side, _ = kernel.shape
    reach = side // 2
    matrix = np.zeros((out, size, size, into, size, size))
    for y, x, dy, dx in np.ndindex(size, size, side, side):
        row, column = y + dy - reach, x + dx - reach
        if 0 <= row < size and 0 <= column < size:
            matrix[:, y, x, :, row, column] = kernel[:, :, dy, dx]
    return float(np.linalg.norm(matrix.reshape(out * size**2, into * size**2), 2))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    out=st.integers(1, 5),
    into=st.integers(1, 5),
    side=st.sampled_from([1, 3, 5]),
    size=st.integers(1, 6),
    exponent=st.integers(-120, 120),
)
def test_a_bound_is_a_little_above_the_norm(
    seed: int, out: int, into: int, side: int, size: int, exponent: int
) -> None:
    drawn = np.random.default_rng(seed).standard_normal((out, into, side, side)).astype(np.float32)
    kernel = np.ldexp(drawn, exponent).astype(np.float32)  # as far as float32 reaches, and as a float64 beyond
    norm = np.ldexp(true_norm(np.ldexp(kernel.astype(float), -exponent), size), exponent)
    found = convolution_norm(kernel, size)
    assert norm <= found <= norm * (1 + 1.1e-4)


@pytest.mark.parametrize("below", [1e-6, 1e-3])
def test_what_is_no_bound_is_not_proven(below: float) -> None:
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3))
    band, terms = _gram_band(kernel, 6)
    norm = true_norm(kernel, 6)
    assert not _is_above(band, norm * (1 - below), terms)
    assert _is_above(band, norm * (1 + below), terms)


def test_the_norm_of_known_convolutions() -> None:
    identity = np.zeros((3, 3, 3, 3))
    identity[:, :, 1, 1] = 2 * np.eye(3)
    assert convolution_norm(identity, 9) == pytest.approx(2, rel=2e-4)
    assert convolution_norm(np.full((1, 1, 1, 1), -3.0), 7) == pytest.approx(3, rel=2e-4)
    assert convolution_norm(np.zeros((2, 2, 3, 3)), 4) == 0
    box = np.ones((1, 1, 3, 3))  # separable: (1 + 2·cos(π / 9))² on 8 pixels with zeros around them
    assert convolution_norm(box, 8) == pytest.approx((1 + 2 * np.cos(np.pi / 9)) ** 2, rel=2e-4)


@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        (np.ones((1, 1, 2, 2)), r"kernel: expected \[out, in, k, k\] with an odd k, got \[1, 1, 2, 2\]"),
        (np.ones((1, 1, 3, 1)), r"got \[1, 1, 3, 1\]"),
        (np.ones((4, 4)), r"got \[4, 4\]"),
        (np.full((1, 1, 3, 3), np.nan), "expected finite numbers"),
        (np.full((1, 1, 3, 3), np.inf), "expected finite numbers"),
    ],
)
def test_other_kernels_are_refused(kernel: NDArray[Any], problem: str) -> None:
    with pytest.raises(HeatserveError, match=problem):
        convolution_norm(kernel, 4)
