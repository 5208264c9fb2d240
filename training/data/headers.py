"""What a file shows before its pixels are decoded: its kind, and what is cut off or could be read in two ways."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from heatserve.training.data.errors import DataError

SIGNATURE_BYTES = 512
"""How many bytes of a file are looked at."""

_CONVERT = "; convert it to PNG or JPEG"
_KNOWN = (
    (rb"\Z", "an empty file"),
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", f"a HEIC file{_CONVERT}"),
    (
        rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg\b",
        f"an SVG drawing{_CONVERT}",
    ),
    (rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)\b", "an HTML page"),
    (rb"PK(\x03\x04|\x05\x06)", "a ZIP archive"),
    (rb"%PDF-", f"a PDF document{_CONVERT}"),
    (rb"\0\0[\x02\x0a]\0", f"a TGA or CUR file{_CONVERT}"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"\x93NUMPY", "an .npy array, whose name must end in .npy"),
    (rb"version https://git-lfs", "a pointer of Git LFS, whose file was not fetched"),
)

_SAMPLES_PER_PIXEL, _PLANAR, _SAMPLE_FORMAT = 277, 284, 339  # tags of a TIFF
_SEPARATE_PLANES, _SIGNED = 2, 2
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
_START_OF_TILE, _END = b"\xff\x90\0\x0a", b"\xff\xd9"  # markers that no data of a JPEG 2000 tile contain


def what_it_is(start: bytes, *, readable: Sequence[str]) -> str:
    """What the first `SIGNATURE_BYTES` of a file say that it is, and what to do.

    Args:
        start: the bytes; fewer where the file is shorter.
        readable: the formats that are read, by Pillow's names.
    """
    for pattern, name in _KNOWN:
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            return name
    found = _pillow_name(start)
    if found in readable:
        return f"one of format {found} that is damaged, or of a kind that is not read"
    if found:
        return f"one of format {found}{_CONVERT}"
    return f"none of {', '.join(readable)}"


def _pillow_name(start: bytes) -> str | None:
    Image.init()
    for name, (_, accepts) in Image.OPEN.items():
        if accepts is not None and accepts(start[:16]) is True:
            return name
    return None


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
