"""A caller's array as the batch that a model takes, and the errors that say what is wrong with it before it is sent."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heatserve.serving.errors import ServingError
from heatserve.serving.pixels import Pixels, explain_pixels


def as_batch(images: ArrayLike, input_shape: tuple[int, int, int], input_type: Literal["FP32", "UINT8"]) -> Pixels:
    """Images as the tensor `image` of a model: FP32 [N, C, H, W] in [0,1], or UINT8 [N, H, W, C].

    Args:
        images: float32 [N, C, H, W] or one [C, H, W], values in [0,1], for FP32 only; or uint8 [N, H, W, C] or one
            [H, W, C], which is divided by 255 for FP32. No other dtype: what is certified is the image that is given.
        input_shape: C, H, W that the model takes; H and W are −1 where it takes any.
        input_type: what the model takes.

    Raises:
        ServingError: no array, another dtype or shape, an empty batch, or values that are not finite or not in [0,1].
    """
    array = _array(images)
    channels, height, width = input_shape
    if array.dtype == np.uint8:
        _check_shape(array, (height, width, channels), "uint8 [N,H,W,C]")
        batch = array if array.ndim == 4 else array[None]
        if array.max() == 1:
            raise ServingError(
                "image: expected uint8 from 0 to 255, found none above 1: an image in [0,1] that was made uint8 is "
                "black; pass the bytes that it was read as, or float32"
            )
        if input_type == "UINT8":
            return np.ascontiguousarray(batch)
        scaled = batch.transpose(0, 3, 1, 2) / np.float32(255)
        return np.ascontiguousarray(scaled, dtype=np.float32)
    if input_type == "UINT8":
        raise ServingError(f"image: expected dtype uint8 [N,H,W,C], which this model takes; found {array.dtype}")
    if array.dtype != np.float32:
        raise ServingError(
            f"image: expected dtype float32 in [0,1], or uint8; found {array.dtype}{_of_items(array)}; convert it "
            "first, for the radius is about the very pixels that are sent"
        )
    _check_shape(array, input_shape, "float32 [N,C,H,W]")
    floats = np.ascontiguousarray(array.reshape(-1, *input_shape))
    problem = explain_pixels(floats)
    if problem:
        raise ServingError(problem)
    return floats


def _array(images: ArrayLike) -> NDArray[Any]:
    """What is given as an array, which holds something.

    Raises:
        ServingError: it cannot be one, or would lose what it hides.
    """
    if isinstance(images, np.ma.MaskedArray):
        raise ServingError("image: expected an array, found a masked one; fill what is masked first")
    kind = type(images).__name__
    try:
        array = np.asarray(images)
    except Exception as error:  # whatever somebody's own class raises
        if isinstance(error, ValueError) and "inhomogeneous" in str(error):
            raise ServingError("image: expected images of one shape, found lists of unequal lengths") from None
        hint = "pass images.detach().float().cpu()" if kind in ("Tensor", "Parameter") else "pass a numpy array"
        reason = " ".join(str(error).split())[:200]
        raise ServingError(f"image: expected an array, found a {kind} that gives none ({reason}); {hint}") from None
    if array.size == 0:
        raise ServingError("image: expected at least one image, found an empty batch")
    return array


def _of_items(array: NDArray[Any]) -> str:
    """What an array of objects holds, such as arrays of several shapes or None."""
    return f" ({type(array.flat[0]).__name__} and the like)" if array.dtype == object else ""


def _check_shape(array: NDArray[Any], one: tuple[int, int, int], layout: str) -> None:
    fits = len(array.shape[-3:]) == 3 and all(e in (-1, f) for e, f in zip(one, array.shape[-3:], strict=True))
    if not fits or array.ndim > 4:
        expected = ",".join("any" if size < 0 else str(size) for size in one)
        found = ",".join(map(str, array.shape))
        raise ServingError(f"image: expected {layout} = [N,{expected}], or one [{expected}]; found [{found}]")
