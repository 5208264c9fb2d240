"""Accuracy on clean and on noisy images, for the end of a training run; certificates are measured elsewhere."""

from __future__ import annotations

import torch
from torch import nn

from heatserve.training.data.splits import ImageData


def accuracy(network: nn.Module, data: ImageData, *, sigma: float = 0.0, seed: int = 0, batch_size: int = 500) -> float:
    """Share of `data` that `network` classifies right in one pass, after noise N(0, σ²I) drawn once for each image.

    Runs on the device that the network is on, in the mode that it is in.
    """
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    right = 0
    with torch.no_grad():
        for images, labels in data.batches(batch_size):
            images = images.to(device)
            if sigma:
                images = images + sigma * torch.randn(images.shape, generator=generator, device=device)
            right += int((network(images).argmax(1) == labels.to(device)).sum())
    return right / len(data)
