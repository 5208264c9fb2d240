"""Image files as arrays that a model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from heatserve.serving.client.image_batch import as_batch
from heatserve.serving.errors import ServingError
from heatserve.serving.pixels import Pixels

_MODES = {1: "L", 3: "RGB"}  # channels that a model takes: Pillow's mode
_EIGHT_BIT_MODES = ("1", "L", "P", "RGB")  # without transparency, which no conversion preserves


def read_images(path: Path, input_shape: tuple[int, int, int], input_type: Literal["FP32", "UINT8"] = "FP32") -> Pixels:
    """The images of a file, as `as_batch` gives them: one of a picture, one or more of an .npy array.

    Grey and colour are converted into each other as the model's C = 1 or 3 channels ask; the size is never changed
    here.

    Args:
        path: a file that Pillow reads, or an .npy file with an array that `as_batch` takes.
        input_shape: C, H, W of the model.
        input_type: the input type of the model.

    Raises:
        ServingError: no such file, not an image, more than 8 bits a channel, transparency, another size, or values
            that are no pixels. Names the file.
    """
    try:
        if path.suffix == ".npy":
            return as_batch(np.load(path, allow_pickle=False), input_shape, input_type)
        with Image.open(path) as image:
            return as_batch(_pixels(image, input_shape), input_shape, input_type)
    except UnidentifiedImageError:
        raise ServingError(f"{path}: expected an image file or an .npy array, found neither") from None
    except OSError as error:
        raise ServingError(f"{path}: expected an image file or an .npy array: {error.strerror or error}") from None
    except ValueError as error:
        raise ServingError(f"{path}: {error}") from None


def _pixels(image: Image.Image, input_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    channels, height, width = input_shape
    if channels not in _MODES:
        raise ServingError(f"the model takes {channels} channels; expected an .npy array [{channels},H,W]")
    if image.mode not in _EIGHT_BIT_MODES:
        raise ServingError(
            f"expected 8-bit grey or RGB without transparency (mode {', '.join(_EIGHT_BIT_MODES)}), "
            f"found mode {image.mode}; convert it, or pass an .npy array"
        )
    if height > 0 and image.size != (width, height):
        raise ServingError(
            f"expected {width}×{height} pixels (width×height), found {image.width}×{image.height}; "
            "resize it as the model's training data were"
        )
    return np.asarray(image.convert(_MODES[channels])).reshape(image.height, image.width, channels)
