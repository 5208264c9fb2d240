"""Images with their labels, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from certification.errors import HeatserveError
from certification.radius import Float32Array
from export.card import Split
from export.repository import ModelVersion


@dataclass(frozen=True)
class LabelledImages:
    """Images FP32 [N, C, H, W] in [0,1] with labels [N], and where they come from."""

    images: Float32Array
    labels: NDArray[np.int64]
    dataset: str
    split: str
    seed: int

    def source(self, images: int) -> Split:
        """`images` of them, as the card names them."""
        return Split(dataset=self.dataset, split=self.split, images=images, seed=self.seed)


def as_taken(model: ModelVersion, data: LabelledImages) -> LabelledImages:
    """The images as the model takes them: rounded to 8 bits where it takes UINT8.

    Raises:
        HeatserveError: images of another shape than the model's.
    """
    if data.images.shape[1:] != model.card.input_shape:
        raise HeatserveError(
            f"{data.dataset}: expected images of shape {list(model.card.input_shape)} for model {model.name}, "
            f"got {list(data.images.shape[1:])}"
        )
    if model.card.input_type == "FP32":
        return data
    return replace(data, images=np.rint(data.images * np.float32(255)) / np.float32(255))
