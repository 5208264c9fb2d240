"""Votes as randomized-smoothing code usually takes them: repeat the image, add `randn_like`, classify, count.

It needs torch and nothing else of what a bare GPU machine lacks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def torch_votes(
    network: nn.Module, image: Tensor, count: int, *, sigma: float, num_classes: int, batch_size: int
) -> Tensor:
    """How many of `count` noisy passes answer each class.

    Nothing waits for the device, so that a CUDA graph can hold all of it.

    Args:
        network: from images [N, C, H, W] to logits [N, K], in eval mode.
        image: [1, C, H, W], pixels in [0,1], on the device of the network; the noise has its type.
        count: noisy passes.
        sigma: standard deviation of the noise, pixels in [0,1].
        num_classes: K.
        batch_size: noisy images in one call of the network.

    Returns:
        int64 [K] on the same device.
    """
    counts = torch.zeros(num_classes, dtype=torch.int64, device=image.device)
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        batch = image.expand(size, *image.shape[1:])
        votes = network(batch + sigma * torch.randn_like(batch)).argmax(1)
        counts.scatter_add_(0, votes, torch.ones_like(votes))
    return counts
