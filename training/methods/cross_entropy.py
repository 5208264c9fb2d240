"""Cross entropy on the images as they are: the undefended baseline that every other method starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatserve.training.methods.protocol import Terms, backward, batch_accuracy


@dataclass(frozen=True)
class CrossEntropy:
    """The undefended baseline: −log softmax(f(x))_y."""

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:  # noqa: ARG002
        logits = network(images)
        return backward(functional.cross_entropy(logits, labels), accuracy=batch_accuracy(logits, labels))
