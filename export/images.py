"""Images with their labels, and where they come from: as arrays of one size, or as pictures of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.radius import Float32Array
from heatserve.export.card import Split

Picture = NDArray[np.uint8]
"""An image as it is stored, uint8 [H, W, C] of any height and width."""


class Sampled:
    """What images have in common that were drawn from a split of a data set, however they are held."""

    labels: NDArray[np.int64]
    """True classes, [N]."""
    dataset: str
    split: str
    seed: int
    """Seed of the permutation that drew them."""
    first: int
    """How many images of the permutation come before them: image i has the index first + i, and the noise of that."""
    split_size: int | None
    """Images that the split has in all; None: not known."""

    def __len__(self) -> int:
        return len(self.labels)

    def source(self, images: int) -> Split:
        """The first `images` of them, as the card names them."""
        return Split(dataset=self.dataset, split=self.split, images=images, seed=self.seed, first=self.first)


@dataclass(frozen=True)
class LabelledImages(Sampled):
    """Images of one size: float32 [N, C, H, W] in [0,1]."""

    images: Float32Array
    labels: NDArray[np.int64]
    dataset: str
    split: str
    seed: int
    first: int = 0
    split_size: int | None = None


@dataclass(frozen=True)
class LabelledPictures(Sampled):
    """Pictures of any size, for a model that resizes them in its own graph.

    `pictures` may decode a file whenever an item is asked for: whoever needs a picture twice keeps it.
    """

    pictures: Sequence[Picture]
    labels: NDArray[np.int64]
    dataset: str
    split: str
    seed: int
    first: int = 0
    split_size: int | None = None


SampledImages = LabelledImages | LabelledPictures
"""What calibration and audit are given; `runtime.answers.model_images` converts it for a model."""
