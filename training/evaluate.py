"""Accuracy on clean and on noisy images, for the end of a training run; certificates are measured elsewhere."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from heatserve.training.data.splits import ImageData

_BATCH = 500


def accuracy(network: nn.Module, data: ImageData, *, sigma: float = 0.0, margin: float = 0.0) -> float:
    """Share of `data` that `network` classifies right in one pass, after noise N(0, σ²I), which a fixed seed decides.

    It must do so with the label's logit lowered by `margin`: √2·r means a radius of r where the logits are 1-Lipschitz.

    Runs on the device that the network is on, in the mode that it is in.
    """
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    right = 0
    with torch.no_grad():
        for images, labels in data.batches(_BATCH):
            images = images.to(device)
            if sigma:
                images = images + sigma * torch.randn(images.shape, generator=generator, device=device)
            labels = labels.to(device)
            logits = network(images)
            lowered = logits - margin * functional.one_hot(labels, logits.shape[1])
            right += int((lowered.argmax(1) == labels).sum())
    return right / len(data)
