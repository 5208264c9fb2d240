"""Random crops and flips of a whole batch at once, drawn from a generator of the caller's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Shift each image by up to `padding` pixels, filling with zeros, then mirror half of them if `flip`."""

    padding: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of `images` [N, C, H, W]; each image draws its own shift and flip."""
        if self.padding:
            images = _shift(images, self.padding, generator)
        if self.flip:
            mirrored = torch.rand(len(images), generator=generator, device=images.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return images


def _shift(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    count, channels, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    n = torch.arange(count, device=images.device)[:, None, None, None]
    c = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[n, c, rows[:, None, :, None], columns[:, None, None, :]]
