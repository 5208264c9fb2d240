"""From an opened image file to grey or RGB: its levels with all the bits that it has, its transparency, its colours."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from heatserve.training.data.errors import DataError

Decoded = NDArray[np.uint8] | NDArray[np.float32]
"""An image [H, W, C], C = 1 or 3: uint8, in which 255 is white, or float32 in [0,1]."""

_GREY = ("1", "L", "LA")
_NARROW = (*_GREY, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB")  # Pillow's modes of up to 8 bits
_WITH_ALPHA = ("LA", "PA", "RGBA")
_OTHER_BYTES = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
_WHITE = 65535  # of 16 bits
_STEPS = {
    "1": 255,
    "L;2": 85,
    "L;4": 17,
}  # of raw modes: between the 8-bit levels of neighbouring values
_LUMA = np.array([19595, 38470, 7471]) / 65536  # 0.299, 0.587 and 0.114 (ITU-R 601-2) as Pillow rounds them
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # two tags of a TIFF, and a value of the second


def grey_or_rgb(opened: Callable[[], ImageFile], channels: int) -> Decoded:
    """The pixels of an image, upright, as grey or RGB.

    Args:
        opened: opens the image anew at each call, and decodes no pixel.
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: transparent pixels, integers without a known white, floats outside [0,1], or an unknown mode.
    """
    with opened() as image:
        raw = _raw_mode(image)
        if _has_wide_colours(image):
            return _wide_colours(image, raw, opened, channels)
        if _has_wide_grey(image):
            return _to_channels(_wide_grey(image), channels)
        if image.mode in _NARROW:
            return _narrow(image, channels, step=_STEPS.get(raw, 1))
        raise DataError(f"expected grey, or colours that can be converted to RGB; found Pillow's mode {image.mode}")


def is_wide(image: ImageFile) -> bool:
    """Whether an image, of which no pixel is decoded, has floats or more than 8 bits: it becomes float32."""
    return _has_wide_colours(image) or _has_wide_grey(image)


def _has_wide_colours(image: ImageFile) -> bool:
    return _raw_mode(image)[-3:] in _OTHER_BYTES and image.mode in ("RGB", "RGBA", "CMYK")


def _has_wide_grey(image: ImageFile) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _raw_mode(image: ImageFile) -> str:
    """How Pillow's decoder is to unpack the samples of the file, such as `RGB;16B`; "" where it does not say."""
    arguments = image.tile[0].args if image.tile else ""
    found = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return found if isinstance(found, str) else ""


def _narrow(image: Image.Image, channels: int, *, step: int) -> NDArray[np.uint8]:
    """An image of up to 8 bits a channel, converted by Pillow."""
    upright = ImageOps.exif_transpose(image)
    key = upright.info.get("transparency")
    if isinstance(key, int) and key <= 255 // step:  # which Pillow does not scale to 8 bits as it does the pixels
        upright.info["transparency"] = key * step
    if upright.mode in _WITH_ALPHA or key is not None:
        upright = upright.convert("LA" if upright.mode in _GREY else "RGBA")
        _check_opaque(np.asarray(upright)[..., -1] == 255)
        upright = upright.convert(upright.mode[:-1])
    elif upright.mode == "LAB":
        upright = _from_lab(upright)
    if channels == 3 or upright.mode not in _GREY:
        upright = upright.convert("RGB")
    pixels = np.array(upright if channels == 3 else upright.convert("L"))
    return pixels.reshape(*pixels.shape[:2], channels)


def _from_lab(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    rgb = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
    assert rgb is not None, "a transform that is not in place returns an image"
    return rgb


def _check_opaque(is_opaque: NDArray[np.bool_]) -> None:
    if not is_opaque.all():
        count = is_opaque.size - np.count_nonzero(is_opaque)
        raise DataError(
            f"expected an opaque picture, found {count} of {is_opaque.size} pixels transparent; lay it on the "
            "background that the model is to see"
        )


def _wide_colours(image: ImageFile, raw: str, opened: Callable[[], ImageFile], channels: int) -> NDArray[np.float32]:
    """Colours of 16 bits a channel. Pillow keeps the upper byte of each; the lower is that of the bytes exchanged."""
    if raw == "LA;16B":  # in a PNG: the four bytes of a pixel as they are
        found = _unpacked(image, "RGBA").view(">u2")
    else:
        high = _unpacked(image, raw)
        with opened() as again:
            low = _unpacked(again, raw[:-3] + _OTHER_BYTES[raw[-3:]])
        found = high * np.uint16(256) + low
    key = image.info.get("transparency")
    if key is not None:
        _check_opaque((found != np.asarray(key)).any(axis=-1))
    if image.mode == "RGBA":
        _check_opaque(found[..., -1] == _WHITE)
        found = found[..., :-1]
    levels = found.astype(np.float32) / np.float32(_WHITE)  # rounded once, since both are float32 exactly
    if image.mode == "CMYK":  # 0 is no ink
        levels = (1 - levels[..., :3]) * (1 - levels[..., 3:])
    return _to_channels(levels, channels)


def _unpacked(image: ImageFile, raw: str) -> NDArray[np.uint8]:
    """The pixels of an image that is not decoded yet, upright, with its samples unpacked by the raw mode `raw`."""
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in image.tile
    ]
    return np.array(ImageOps.exif_transpose(image))


def _wide_grey(image: Image.Image) -> NDArray[np.float32]:
    """Grey of more than 8 bits, or of floats, as levels [H, W, 1] in [0,1]."""
    white, is_inverted = _WHITE, False
    if isinstance(image, TiffImageFile):
        white = 2 ** int(np.atleast_1d(image.tag_v2.get(_BITS_PER_SAMPLE, 1))[0]) - 1
        is_inverted = image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # Pillow inverts up to 8 bits only
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise DataError("expected integers of up to 16 bits, or floats in [0,1]; found integers of 32 bits")
    values = np.asarray(ImageOps.exif_transpose(image))[..., None]
    key = image.info.get("transparency")
    if key is not None:
        _check_opaque(values != key)
    levels = values.astype(np.float32) / np.float32(1 if image.mode == "F" else white)
    if not ((levels >= 0) & (levels <= 1)).all():
        raise DataError(
            f"expected floats in [0,1], found {np.count_nonzero(np.isnan(levels))} NaN and values from "
            f"{np.nanmin(levels):g} to {np.nanmax(levels):g}; divide them by what is white"
        )
    return 1 - levels if is_inverted else levels


def _to_channels(levels: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Levels [H, W, 1 or 3] as float32 [H, W, `channels`]."""
    if channels < levels.shape[-1]:
        levels = (levels @ _LUMA)[..., None].astype(np.float32)
    return levels if channels == levels.shape[-1] else np.repeat(levels, channels, axis=-1)
