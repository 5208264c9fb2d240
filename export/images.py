"""Images with their labels, and where they come from: as arrays of one size, or as pictures of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.radius import Float32Array
from heatserve.export.card_parts import Split

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
    passed_over: int
    """Images of the permutation that come among them and were left out."""

    def __len__(self) -> int:
        return len(self.labels)

    def _place_of(self, indices: Sequence[int]) -> tuple[int, int]:
        """`first` and `passed_over` of the images at rising `indices`."""
        passed_over = self.passed_over if indices[-1] == len(self) - 1 else 0
        return self.first + indices[0], passed_over + indices[-1] + 1 - indices[0] - len(indices)

    def source(self, images: int) -> Split:
        """The first `images` of them, as the card names them."""
        return Split(
            dataset=self.dataset,
            split=self.split,
            images=images,
            seed=self.seed,
            first=self.first,
            passed_over=self.passed_over if images == len(self) else 0,
        )


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
    passed_over: int = 0

    def at(self, indices: Sequence[int]) -> LabelledImages:
        """The images at rising `indices`."""
        first, passed_over = self._place_of(indices)
        images, labels = self.images[list(indices)], self.labels[list(indices)]
        return replace(self, images=images, labels=labels, first=first, passed_over=passed_over)


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
    passed_over: int = 0

    def at(self, indices: Sequence[int]) -> LabelledPictures:
        """The pictures at rising `indices`; none is decoded."""
        first, passed_over = self._place_of(indices)
        pictures, labels = PicturesAt(self.pictures.__getitem__, tuple(indices)), self.labels[list(indices)]
        return replace(self, pictures=pictures, labels=labels, first=first, passed_over=passed_over)


@dataclass(frozen=True)
class PicturesAt(Sequence[Picture]):
    """The pictures of some indices, each read when it is asked for."""

    read: Callable[[int], Picture]
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Picture: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Picture]: ...

    def __getitem__(self, index: int | slice) -> Picture | Sequence[Picture]:
        if isinstance(index, slice):
            return PicturesAt(self.read, self.indices[index])
        return self.read(self.indices[index])


SampledImages = LabelledImages | LabelledPictures
"""What calibration and audit are given; `runtime.answers.model_images` converts it for a model."""
