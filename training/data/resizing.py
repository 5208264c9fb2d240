"""Resizing decoded images as torchvision's evaluation transforms do, and as the resize in a served graph does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatserve.training.data.colours import Decoded


def resize_and_crop(pixels: Decoded, *, resize: int, crop: int) -> Decoded:
    """Bring the shorter side to `resize` pixels (bilinear, antialiased), and cut out the centre `crop`×`crop`.

    Of an image whose shorter side is then below `crop`, what is missing around it is black, as torchvision pads it.

    Args:
        pixels: uint8 or float32 [H, W, C]; of the same type as what is returned.
        resize: pixels of the shorter side.
        crop: pixels of both sides of what is returned.
    """
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    size = width * resize // shorter, height * resize // shorter  # Pillow has the width first
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        resized: Decoded = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    else:
        planes = [
            Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR) for plane in np.moveaxis(pixels, -1, 0)
        ]
        resized = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return _centre(resized, crop)


def _centre(pixels: Decoded, crop: int) -> Decoded:
    height, width, channels = pixels.shape
    top, left = (max(crop - side, 0) // 2 for side in (height, width))
    framed: NDArray[Any] = np.zeros((max(height, crop), max(width, crop), channels), pixels.dtype)
    framed[top : top + height, left : left + width] = pixels
    top, left = (round((side - crop) / 2) for side in framed.shape[:2])
    return framed[top : top + crop, left : left + crop]
