"""What new networks normalise each channel of an image by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heatserve.training.data.images import ImageShape

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def channel_statistics(input_shape: ImageShape) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel, pixels in [0,1]: ImageNet's for colour images, ½ and ½ for others."""
    if input_shape[0] == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (0.5,) * input_shape[0], (0.5,) * input_shape[0]
