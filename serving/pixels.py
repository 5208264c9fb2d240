"""The pixels of a request: type, shape and values, and what the server and the client say of those not valid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32] | NDArray[np.uint8]
"""A batch FP32 [N, C, H, W] in [0,1] or UINT8 [N, H, W, C], as the model takes it."""

IMPOSSIBLE_SHAPE = (0,)
"""Stands for a shape that no array has (see `heatserve.serving.backend.shapes`)."""

_LONGEST_SIDE = 10  # times the shorter one: a picture 1×65536 has 64 KB, and 51 GB with its shorter side at 256
_DESCRIBED = 3  # images described one by one before the message only counts the rest


def explain_shape(found: tuple[int, ...], dims: tuple[int, ...], *, limit: int) -> str | None:
    """Say what is wrong with the shape of a request's tensor `image`, or None where it is [N, *dims] with N ≥ 1.

    Args:
        found: as Triton's core hands it over. The core takes N modulo 2³², and where that is 0 (N = 0, 2³², 2⁶², with
            the bytes of one image) it drops the axis.
        dims: the dimensions of one image; −1 where the model takes pictures of any size, which then have at least one
            pixel and sides that differ at most tenfold, for the graph enlarges them until the shorter one fits.
        limit: the most images of one request, for the message: Triton's core refuses more.
    """
    expected = f"[N,{','.join('any' if size < 0 else str(size) for size in dims)}]"
    if len(found) == len(dims):
        return f"image: expected {expected} with N = 1 to {limit} images, found N = 0 (N is read modulo 2³²)"
    if len(found) != len(dims) + 1 or not all(e in (-1, f) for e, f in zip(dims, found[1:], strict=True)):
        came = f"[{','.join(map(str, found))}]" if found != IMPOSSIBLE_SHAPE else "sizes that are negative or too large"
        return f"image: expected {expected}, found {came}"
    sides = [f for e, f in zip(dims, found[1:], strict=True) if e < 0]
    if sides and not 0 < max(sides) <= _LONGEST_SIDE * min(sides):
        return (
            f"image: expected pictures whose longer side is at most {_LONGEST_SIDE} times the shorter one, "
            f"found {'×'.join(map(str, sides))} pixels"
        )
    return None


def explain_pixels(images: Pixels) -> str | None:
    """Say what is wrong with the values of `images`, FP32 [N, ...], or None where all are finite and in [0,1].

    UINT8 values are always valid.

    The message names the tensor, the expectation and, for each of the first images at fault, its index in the
    batch, how many of its values are NaN, infinite or outside [0,1], and the range of its finite values.
    """
    if images.dtype == np.uint8:
        return None
    # One pass each, no temporary array: min and max hand on any NaN, which compares false with everything.
    if images.min(initial=1.0) >= 0 and images.max(initial=0.0) <= 1:
        return None
    rows = images.reshape(len(images), -1)
    at_fault = np.flatnonzero(~((rows >= 0) & (rows <= 1)).all(axis=1))
    found = "; ".join(f"image {index} of {len(images)} has {_faults(rows[index])}" for index in at_fault[:_DESCRIBED])
    more = f"; and {len(at_fault) - _DESCRIBED} more images" if len(at_fault) > _DESCRIBED else ""
    return f"image: expected finite values in [0,1]; found: {found}{more}"


def _faults(values: NDArray[np.float32]) -> str:
    finite = values[np.isfinite(values)]
    counts = {
        "NaN": np.isnan(values).sum(),
        "infinite": np.isinf(values).sum(),
        "outside [0,1]": ((finite < 0) | (finite > 1)).sum(),
    }
    named = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    span = f"min {_shown(finite.min())} and max {_shown(finite.max())}" if len(finite) else "no finite value"
    return f"{named} of {len(values)} values ({span})"


def _shown(value: np.float32) -> str:
    """A value that six digits show as 1 is shown by how much it is above, for 1 would be valid."""
    text = f"{value:g}"
    return f"1 + {value - np.float32(1):.2g}" if text == "1" and value > 1 else text
