"""Which image it is, whatever file or data set holds it: two sets share an image if they share its pixels."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pixel_digest(image: NDArray[Any]) -> str:
    """The first 16 hex digits of the SHA-256 of an image's size and pixels, in 8 bits.

    A grey image has the same digest in one channel as in three equal ones, and an image of more than 8 bits that of the
    same image rounded to 8. A copy that was resized, cropped or compressed with a loss is another image.

    Args:
        image: uint8 [C, H, W], or floating point [C, H, W] in [0,1].
    """
    levels = image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if (levels == levels[:1]).all():
        levels = levels[:1]
    return hashlib.sha256(f"{levels.shape} ".encode() + levels.tobytes()).hexdigest()[:16]
