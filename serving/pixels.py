"""The pixels of a request: their type, and what the server and the client say of pixels that are not valid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32] | NDArray[np.uint8]
"""A batch FP32 [N, C, H, W] in [0,1] or UINT8 [N, H, W, C], as the model takes it."""

_DESCRIBED = 3  # images described one by one before the message only counts the rest


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
    more = f"; and {len(at_fault) - _DESCRIBED} images more" if len(at_fault) > _DESCRIBED else ""
    return f"image: expected finite values in [0,1]; found: {found}{more}"


def _faults(values: NDArray[np.float32]) -> str:
    finite = values[np.isfinite(values)]
    counts = {
        "NaN": np.isnan(values).sum(),
        "infinite": np.isinf(values).sum(),
        "outside [0,1]": ((finite < 0) | (finite > 1)).sum(),
    }
    named = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    span = f"min {finite.min():g} and max {finite.max():g}" if len(finite) else "no finite value"
    return f"{named} of {len(values)} values ({span})"
