"""Images with their labels, and where they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.radius import Float32Array
from heatserve.export.card import Split


@dataclass(frozen=True)
class LabelledImages:
    """Images FP32 [N, C, H, W] in [0,1] with labels [N], and where they come from.

    `picture` gives the image at an index as it is stored, uint8 [H, W, C] of any size, where that is known.
    """

    images: Float32Array
    labels: NDArray[np.int64]
    dataset: str
    split: str
    seed: int
    picture: Callable[[int], NDArray[np.uint8]] | None = None

    def source(self, images: int) -> Split:
        """`images` of them, as the card names them."""
        return Split(dataset=self.dataset, split=self.split, images=images, seed=self.seed)
