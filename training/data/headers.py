"""What the header of an image file shows to be missing or without one meaning, and no decoder of Pillow looks at."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from heatserve.training.data.errors import DataError

_SAMPLES_PER_PIXEL, _PLANAR, _SAMPLE_FORMAT = 277, 284, 339  # tags of a TIFF
_SEPARATE_PLANES, _SIGNED = 2, 2
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
_START_OF_TILE, _END = b"\xff\x90\0\x0a", b"\xff\xd9"  # markers that no data of a JPEG 2000 tile contain


def check_tiff(image: TiffImageFile) -> None:
    """Refuse a TIFF of signed integers, of several pages, or whose strips do not cover the picture.

    Raises:
        DataError: it is one of them.
    """
    if _SIGNED in np.atleast_1d(image.tag_v2.get(_SAMPLE_FORMAT, 1)):
        raise DataError("expected unsigned integers or floats, found a TIFF of signed integers, whose white is unknown")
    if image.is_animated:
        raise DataError("expected one picture, found a TIFF of several pages; save each page as a file of its own")
    has_planes = image.tag_v2.get(_PLANAR) == _SEPARATE_PLANES and len(image.tile) > 1
    needed = image.width * image.height * (image.tag_v2.get(_SAMPLES_PER_PIXEL, 1) if has_planes else 1)
    boxes = [tile.extents for tile in image.tile if tile.extents]
    if sum((right - left) * (lower - upper) for left, upper, right, lower in boxes) < needed:
        raise DataError(f"expected {image.width}×{image.height} pixels as its header says; the file is truncated")


def is_cut_jpeg2000(content: bytes) -> bool:
    """Whether these bytes are a JPEG 2000 file that ends before its last tile: decoders leave such tiles black."""
    first_tile = content.find(_START_OF_TILE)
    return content.startswith(_JPEG2000) and (first_tile < 0 or content.find(_END, first_tile) < 0)


def has_late_text(png: BinaryIO) -> bool:
    """Whether a PNG has EXIF data or text after its pixels, which Pillow finds only by decoding them.

    Args:
        png: a PNG file from its start; where it is left is not defined.
    """
    is_behind = False
    png.seek(len(_PNG))
    while len(start := png.read(8)) == 8:
        length, kind = int.from_bytes(start[:4], "big"), start[4:]
        is_behind = is_behind or kind == b"IDAT"
        if is_behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return True
        png.seek(length + 4, io.SEEK_CUR)  # the data and their checksum
    return False
