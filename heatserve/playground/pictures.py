"""Images that a visitor brings, brought to the size that a model takes; and noise and other changes of an image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from heatserve.playground.refusals import Refused
from heatserve.playground.wire import Image, seen
from heatserve.serving.client.answers import ModelSpec
from heatserve.training.data.colours import Decoded
from heatserve.training.data.decoding import decode, decoded_size, decoded_wide, to_floats
from heatserve.training.data.resizing import resize_and_crop

MOST_PIXELS, MOST_WIDE_PIXELS = 50_000_000, 12_000_000
"""Of a file, and of what it is scaled to: of 8 bits, more than a camera has; and of more bits, or floats. Either takes
up to 910 MB while it is read."""
ANY_SIDE = 512
"""Pixels of the longer side, where a model takes pictures of any size."""

_LIKE_DIGITS = (1, 8, 8)
_BITMAP, _BLOCK = 32, 4  # of the digits' own data set: counts of ink in 4×4 blocks of a bitmap
_INK = 0.25
_BISECTIONS = 60


def fitted(content: bytes, spec: ModelSpec) -> Image:
    """The picture of a file as a model takes it, decoded as the client decodes it.

    The shorter side is brought to the model's, and the centre is cut out, as the pictures of folders are for training.

    Raises:
        DataError: not a picture, damaged, transparent, or too large.
        Refused: a model that takes no pictures, or a picture that would be too large when scaled.
    """
    channels, height, width = spec.input_shape
    if channels not in (1, 3):
        raise Refused(422, f"This model takes images of {channels} channels, which no picture has.")
    pixels = _decoded(content, channels)
    if height < 0:
        height, width = _bounded(*pixels.shape[:2])
    return seen(_floats(_covering(pixels, height, width)), spec)


def drawn(content: bytes, spec: ModelSpec) -> Image:
    """What a visitor drew, light on dark, made as the images of the model's data set were.

    For 8×8 digits: what is drawn fills a bitmap of 32×32, of which each pixel counts the ink in a block of 4×4, 0 to 16
    (Alpaydin and Kaynak 1998). For other models it is a picture like any other.

    Raises:
        DataError: not a picture.
        Refused: nothing is drawn.
    """
    if spec.input_shape != _LIKE_DIGITS:
        return fitted(content, spec)
    ink = _floats(_decoded(content, channels=1))[0]
    rows, columns = (np.flatnonzero((ink > _INK).any(axis)) for axis in (1, 0))
    if not len(rows):
        raise Refused(422, "Nothing is drawn yet: draw a digit first.")
    inside = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = _BITMAP / max(inside.shape)
    height, width = (max(1, round(side * scale)) for side in inside.shape)
    small = Pillow.fromarray(inside).resize((width, height), Pillow.Resampling.BOX)
    bitmap = np.zeros((_BITMAP, _BITMAP), np.float32)
    top, left = (_BITMAP - height) // 2, (_BITMAP - width) // 2
    bitmap[top : top + height, left : left + width] = np.asarray(small) > _INK
    blocks = bitmap.reshape(_BITMAP // _BLOCK, _BLOCK, -1, _BLOCK).mean((1, 3))
    return seen(blocks[None].astype(np.float32), spec)


def noisy(image: Image, sigma: float, *, draws: int, seed: int) -> NDArray[np.float32]:
    """Copies [draws, C, H, W] of an image under Gaussian noise of σ, cut off at black and white.

    The same seed draws the same noise, so that a larger σ shows more of it.
    """
    noise = np.random.default_rng(seed).standard_normal((draws, *image.shape), dtype=np.float32)
    copies: NDArray[np.float32] = np.clip(image + np.float32(sigma) * noise, 0, 1)
    return copies


def random_change(image: Image, radius: float, spec: ModelSpec) -> Image:
    """The image after a change of that L2 norm in a random direction; see `at_distance`."""
    return at_distance(image, np.random.default_rng().standard_normal(image.shape), radius, spec)


def at_distance(
    image: Image, direction: NDArray[np.float32] | NDArray[np.float64], radius: float, spec: ModelSpec
) -> Image:
    """The image, moved in a direction until it is as far away (L2) as said, or as pixels that the model sees can be.

    It is never farther: of the lengths of the move, which changes the image more and more, bisection keeps the largest
    one that is not. Where the model takes 8 bits, that is judged of the rounded image.
    """
    start, along = image.astype(np.float64), direction.astype(np.float64)
    largest = float(np.abs(along).max())
    if radius <= 0 or largest == 0:
        return image

    def moved(length: float) -> Image:
        return seen(np.clip(start + length * along, 0, 1).astype(np.float32), spec)

    low, high = 0.0, radius / float(np.linalg.norm(along))
    while distance(image, moved(high)) <= radius and high * largest < 1e6:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(image, moved(middle)) <= radius else (low, middle)
    return moved(low)


def distance(image: Image, other: Image) -> float:
    """L2, pixels in [0,1]."""
    return float(np.linalg.norm(other.astype(np.float64) - image.astype(np.float64)))


def _decoded(content: bytes, channels: int) -> Decoded:
    is_wide = decoded_wide(content)
    if math.prod(decoded_size(content)) > (most := _most_pixels(is_wide)):
        kind = "more than 8 bits a channel, and more" if is_wide else "more"
        raise Refused(422, f"This picture has {kind} than {most // 10**6} million pixels; reduce it first.")
    return decode(content, channels=channels)


def _most_pixels(is_wide: bool) -> int:
    return MOST_WIDE_PIXELS if is_wide else MOST_PIXELS


def _floats(pixels: Decoded) -> Image:
    return np.ascontiguousarray(to_floats(pixels).transpose(2, 0, 1))


def _bounded(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, ANY_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _covering(pixels: Decoded, height: int, width: int) -> Decoded:
    """The centre of a picture, as large as it is when scaled until it covers so many pixels."""
    if pixels.shape[:2] == (height, width):
        return pixels
    found_height, found_width = pixels.shape[:2]
    scale = max(height / found_height, width / found_width)
    shorter = max(min(height, width), round(scale * min(found_height, found_width)))
    longer = shorter * max(found_height, found_width) // min(found_height, found_width)
    if shorter * longer > _most_pixels(pixels.dtype == np.float32):
        raise Refused(422, "This picture is too long for its width: cut out a part of it first.")
    square = resize_and_crop(pixels, resize=shorter, crop=max(height, width))
    top, left = (square.shape[0] - height) // 2, (square.shape[1] - width) // 2
    return square[top : top + height, left : left + width]
