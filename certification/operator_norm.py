"""Upper bounds on the norm (L2) of a zero-padded convolution that hold: estimated first, and then proven.

‖W‖₂ ≤ s if and only if s²I − WᵀW is positive semidefinite. A Cholesky factorisation in float64 that does not
break down proves that, once the rounding of all that led to it is taken off beforehand (Higham, "Accuracy and Stability
of Numerical Algorithms", theorem 10.3; Rump, "Verification of positive definiteness", BIT 2006). Pixel by pixel, WᵀW is
a band matrix.
"""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float64Array

_UNIT = 2.0**-53  # unit roundoff of float64
_TRIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0)  # of the estimate, above it: the first that can be proven is taken


def convolution_norm(kernel: NDArray[np.floating[Any]], size: int, *, seed: int = 0) -> float:
    """An upper bound on ‖W‖₂, proven, and mostly 10⁻⁴ of it above.

    Args:
        kernel: [channels out, channels in, k, k], k odd, finite; stride 1, zero padding of k // 2.
        size: pixels of a side of the images, which are square. With k = 1 it does not matter.
        seed: of the estimate.

    Raises:
        HeatserveError: the kernel is not finite, or nothing could be proven.
    """
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3] or not kernel.shape[2] % 2:
        raise HeatserveError(f"kernel: expected [out, in, k, k] with an odd k, got {list(kernel.shape)}")
    if not np.isfinite(kernel).all():
        raise HeatserveError("kernel: expected finite numbers, got others")
    if not kernel.any():
        return 0.0
    # A norm between 2⁻¹⁰⁰ and 2¹⁰⁰ or so, by a power of 2, which rounds nothing: no product underflows or overflows.
    exponent = int(np.floor(np.log2(np.abs(kernel).max())))
    scaled = np.ldexp(kernel.astype(np.float64), -exponent)
    band, terms = _gram_band(scaled, size if kernel.shape[2] > 1 else 1)
    estimate = _largest_eigenvalue(band, seed)
    for above in _TRIES:
        bound = np.sqrt(estimate) * (1 + above)
        if _is_above(band, bound, terms):
            return float(np.ldexp(bound, exponent))
    raise HeatserveError("kernel: expected a norm that can be bounded, found none")


def norm_is_at_most(matrix: Any, bound: float) -> bool:
    """Whether ‖W‖₂ ≤ `bound` could be proven of any matrix, as `convolution_norm` proves it of a convolution.

    Args:
        matrix: W, a sparse matrix of scipy of finite float64 numbers; WᵀW should be a narrow band.
        bound: above 0.
    """
    largest = float(abs(matrix).max())
    if not largest:
        return bound >= 0
    exponent = int(np.floor(np.log2(largest)))
    band, terms = _band_of(matrix * 2.0**-exponent)
    return _is_above(band, float(np.ldexp(bound, -exponent)), terms)


def absolute_norm(kernel: NDArray[np.floating[Any]]) -> float:
    """An upper bound on ‖|W|‖₂ of a convolution whose numbers have lost their signs: √(‖W‖₁‖W‖∞).

    Args:
        kernel: [channels out, channels in, k, k].
    """
    sizes = np.abs(kernel.astype(np.float64))
    rows, columns = sizes.sum((1, 2, 3)).max(), sizes.sum((0, 2, 3)).max()
    return float(np.sqrt(rows * columns) * (1 + 2.0**-20))


def largest_step(norm: float) -> float:
    """The largest float32 τ with which x − τ·Wᵀ ReLU(Wx + b) is 1-Lipschitz where ‖W‖₂ ≤ `norm`, or the one before it.

    It is 2/`norm`² (Meunier et al. 2022) rounded down, and 0 where the norm is. ONNX Runtime makes one operator of a
    product of matrices and a factor, and keeps the factor in float32: one that is none would be rounded there.

    Raises:
        ValueError: the norm is no number whose square is one in float64, too.
    """
    if not norm:
        return 0.0
    if not 2.0**-500 < norm < 2.0**500:
        raise ValueError(f"norm: expected 0 or a number from 2^-500 to 2^500, got {norm:.3g}")
    largest = 2 / norm**2 * (1 - 2.0**-40)
    nearest = np.float32(largest)
    return float(nearest if nearest <= largest else np.nextafter(nearest, np.float32(0)))


def _gram_band(kernel: Float64Array, size: int) -> tuple[Float64Array, int]:
    """See `_band_of`."""
    return _band_of(_convolution_matrix(kernel, size))


def _band_of(matrix: Any) -> tuple[Float64Array, int]:
    """The lower band of WᵀW as LAPACK has it, [bandwidth + 1, n], and the most terms of a sum in it."""
    from scipy import sparse

    gram = sparse.tril(matrix.T @ matrix).tocoo()
    offsets = gram.row - gram.col
    band = np.zeros((int(offsets.max()) + 1, gram.shape[0]), order="F")
    band[offsets, gram.col] = gram.data
    return band, int(np.diff(matrix.tocsc().indptr).max())


def _convolution_matrix(kernel: Float64Array, size: int) -> Any:
    """W as a sparse matrix; pixels go first and their channels next to each other, so that WᵀW is a narrow band."""
    from scipy import sparse

    out, into, side, _ = kernel.shape
    reach = side // 2
    total = sparse.csr_matrix((size * size * out, size * size * into))
    shifts = [shift for shift in range(-reach, reach + 1) if abs(shift) < size]
    for down, across in product(shifts, shifts):
        moved = sparse.kron(sparse.eye(size, k=down), sparse.eye(size, k=across))
        total = total + sparse.kron(moved, kernel[:, :, down + reach, across + reach])
    return total.tocsr()


def _largest_eigenvalue(band: Float64Array, seed: int) -> float:
    """An estimate, by Lanczos: of no use as a bound."""
    from scipy import sparse
    from scipy.sparse.linalg import eigsh

    size = band.shape[1]
    if size < 3:
        full = np.tril(np.array([[band[i - j, j] if i >= j else 0 for j in range(size)] for i in range(size)]))
        return float(np.linalg.eigvalsh(full)[-1])
    lower = sparse.dia_matrix((band, -np.arange(len(band))), shape=(size, size)).tocsr()
    symmetric = lower + sparse.tril(lower, -1).T
    start = np.random.default_rng(seed).random(size)
    return float(cast("Float64Array", eigsh(symmetric, 1, which="LA", v0=start, tol=1e-6)[0])[-1])


def _is_above(band: Float64Array, bound: float, terms: int) -> bool:
    """Whether `bound`² I − WᵀW is proven to be positive semidefinite.

    With u = 2⁻⁵³ and γₖ = k·u / (1 − k·u): the sums of WᵀW are off by at most γₘ‖W‖²_F in norm, the factorisation of
    the matrix A by at most γ_{b+2}/(1 − γ_{b+2})·tr A; both traces are at most n·bound² where the bound holds. Twice
    that is taken off, which covers the rounding of this very arithmetic.
    """
    from scipy.linalg import LinAlgError, cholesky_banded

    bandwidth, size = len(band), band.shape[1]
    trace = float(band[0].sum())
    if not trace <= size * bound**2:
        return False
    margin = 2 * (bandwidth + terms + 8) * size * _UNIT
    shifted = -band
    shifted[0] += bound**2 * (1 - margin)
    try:
        cholesky_banded(shifted, overwrite_ab=True, lower=True, check_finite=False)
    except LinAlgError:
        return False
    return True
