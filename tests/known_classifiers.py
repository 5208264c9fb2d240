"""Classifiers of two numbers whose Gaussian average is known: what Monte Carlo certification is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGMA = 0.5
DIRECTION = np.array([3.0, 4.0]) / 5


def linear(images: NDArray[np.float32]) -> NDArray[Any]:
    """Two classes; the boundary is the line through 0 across DIRECTION, so the true radius is |DIRECTION·x|."""
    side = images.reshape(len(images), -1) @ DIRECTION
    return np.stack([side, -side], axis=1)


def at(distance: float, count: int = 1) -> NDArray[np.float32]:
    """`count` copies of the point at that distance from the boundary of `linear`, float32 [count, 1, 1, 2]."""
    return np.tile((DIRECTION * distance).astype(np.float32).reshape(1, 1, 2), (count, 1, 1, 1))


def five_classes(images: NDArray[np.float32]) -> NDArray[Any]:
    """Votes for the nearest of the angles 0°, 72°, … around the point (1, 0); the first coordinate is 0.4 at first."""
    angles = np.arange(5) * 2 * np.pi / 5
    return np.asarray((images.reshape(len(images), 2) - [1.0, 0.0]) @ np.stack([np.cos(angles), np.sin(angles)]))
