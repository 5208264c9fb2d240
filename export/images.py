"""Images with their labels, and where they come from: as arrays of one size, or as pictures of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

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

    def __len__(self) -> int:
        return len(self.labels)

    def source(self, images: int) -> Split:
        """`images` of them, as the card names them."""
        return Split(dataset=self.dataset, split=self.split, images=images, seed=self.seed)


@dataclass(frozen=True)
class LabelledImages(Sampled):
    """Images of one size: float32 [N, C, H, W] in [0,1]."""

    images: Float32Array
    labels: NDArray[np.int64]
    dataset: str
    split: str
    seed: int

    def at(self, indices: Sequence[int]) -> LabelledImages:
        """The images at `indices`, in that order."""
        return replace(self, images=self.images[list(indices)], labels=self.labels[list(indices)])


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

    def at(self, indices: Sequence[int]) -> LabelledPictures:
        """The pictures at `indices`, in that order; none is decoded."""
        return replace(self, pictures=_PicturesAt(self.pictures, tuple(indices)), labels=self.labels[list(indices)])


@dataclass(frozen=True)
class _PicturesAt(Sequence[Picture]):
    """Some of a sequence of pictures, each asked for when it is needed."""

    pictures: Sequence[Picture]
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Picture: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Picture]: ...

    def __getitem__(self, index: int | slice) -> Picture | Sequence[Picture]:
        if isinstance(index, slice):
            return _PicturesAt(self.pictures, self.indices[index])
        return self.pictures[self.indices[index]]


SampledImages = LabelledImages | LabelledPictures
"""What calibration and audit are given; `runtime.answers.model_images` converts it for a model."""
