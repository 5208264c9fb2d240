"""Image files as arrays that a model takes: decoded as training and calibration decode them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heatserve.serving.client.image_batch import as_batch
from heatserve.serving.errors import ServingError
from heatserve.serving.pixels import Pixels
from heatserve.training.data.decoding import decode, printable, to_bytes, to_floats
from heatserve.training.data.errors import DataError


def read_images(
    path: str | Path, input_shape: tuple[int, int, int], input_type: Literal["FP32", "UINT8"] = "FP32"
) -> Pixels:
    """The images of a file, as `as_batch` gives them: one of a picture, one or more of an .npy array.

    A picture is decoded by `heatserve.training.data.decode`, upright and as grey or RGB as the model's C = 1 or 3
    channels ask; more than 8 bits are kept for an FP32 model, and rounded to 8 for a UINT8 model. The size is never
    changed here.

    Args:
        path: a picture, or an .npy file with an array that `as_batch` takes.
        input_shape: C, H, W of the model.
        input_type: the input type of the model.

    Raises:
        ServingError: no such file, not an image, transparency, another size, or values that are no pixels. Names the
            file.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npy":
            return as_batch(_array(path), input_shape, input_type)
        return as_batch(_picture(path, input_shape, input_type), input_shape, input_type)
    except DataError as error:  # which names the file
        raise ServingError(str(error)) from None
    except ServingError as error:
        raise ServingError(f"{printable(path)}: {error}") from None


def _array(path: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ServingError(f"expected an .npy array, but it cannot be read: {why}") from None
    return found


def _picture(path: Path, input_shape: tuple[int, int, int], input_type: Literal["FP32", "UINT8"]) -> Pixels:
    channels, height, width = input_shape
    if channels not in (1, 3):
        raise ServingError(f"the model takes {channels} channels; expected an .npy array [{channels},H,W]")
    pixels = decode(path, channels=channels)
    if height > 0 and pixels.shape[:2] != (height, width):
        raise ServingError(
            f"expected {width}×{height} pixels (width×height), found {pixels.shape[1]}×{pixels.shape[0]}; "
            "resize it as the model's training data were"
        )
    return to_bytes(pixels) if input_type == "UINT8" else to_floats(pixels).transpose(2, 0, 1)
