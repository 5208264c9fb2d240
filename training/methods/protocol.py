"""What a way of training is: a function that adds the gradient of a loss on a batch to the network's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

Terms = Mapping[str, Tensor]
"""Detached scalars for the log, means over the batch: "loss", the sum that is minimised, then its parts."""


class Method(Protocol):
    """Handed to the loop, which knows nothing else about it. All randomness comes from `generator`.

    It runs the backward pass itself, since it may take a loss in parts: what counts is `.grad` in the end.
    """

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:
        """Add the gradient of the mean loss on images [N, C, H, W] in [0,1] and labels [N] to `.grad`."""
        ...


def backward(loss: Tensor, **parts: Tensor) -> Terms:
    """Add the gradient of `loss` to `.grad`; the terms to log."""
    loss.backward()  # type: ignore[no-untyped-call]
    return {"loss": loss.detach(), **{name: part.detach() for name, part in parts.items()}}


def batch_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of logits [N, K] whose largest is at the label [N], or at the largest of the probabilities [N, K]."""
    classes = labels.argmax(1) if labels.dim() == 2 else labels
    return (logits.argmax(1) == classes).float().mean()
