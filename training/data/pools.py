"""What a data set hands over, from which its splits are cut."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from heatserve.training.data.images import Images, ImageShape


@dataclass(frozen=True)
class Pool:
    """The test images, or all others in an `order` of which the first `calibration` are set aside.

    `order` holds indices of `images`, each of the pool's images once, in a fixed pseudo-random order.
    """

    images: Images
    order: Sequence[int]
    class_names: tuple[str, ...]
    input_shape: ImageShape
    calibration: int
    notes: tuple[str, ...] = ()
    """What a user has to know of how they were found, a line each."""
    pixels_sha256: str | None = None
    """SHA-256 of the pixels of all images that are neither test nor calibration images; None: nothing can change them,
    as their names say what they are."""


def pseudo_random_order(keys: Sequence[bytes], purpose: str) -> list[int]:
    """A fixed pseudo-random order of `keys`, independent for each purpose."""
    salt = f"heatserve {purpose}".encode()
    return sorted(range(len(keys)), key=lambda i: hashlib.sha256(salt + keys[i]).digest())


def calibration_size(count: int) -> int:
    """How many of `count` images are set aside, where a data set has no calibration images of its own."""
    return min(5000, count // 10)
