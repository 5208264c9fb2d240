"""What a way of training is: a function from a network and a batch to a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Loss:
    """`total` is the scalar to minimise; `terms` are its parts, detached scalars, for the log."""

    total: Tensor
    terms: Mapping[str, Tensor]


class Method(Protocol):
    """Handed to the loop, which knows nothing else about it. All randomness comes from `generator`."""

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:
        """The loss of `network` on images [N, C, H, W] in [0,1] and labels [N]."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """The undefended baseline: −log softmax(f(x))_y."""

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:  # noqa: ARG002
        logits = network(images)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return Loss(functional.cross_entropy(logits, labels), {"accuracy": accuracy})
