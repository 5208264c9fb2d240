"""Any method on augmented images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heatserve.training.data.augmentation import Augmentation
from heatserve.training.methods.protocol import Method, Terms


@dataclass(frozen=True)
class Augmented:
    """`method` on augmented images: a method again."""

    method: Method
    augmentation: Augmentation

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:
        """The terms of `method` on augmented copies of images [N, C, H, W] in [0,1]; the labels [N] stay."""
        return self.method(network, self.augmentation(images, generator), labels, generator)
