"""The one reader of image files: training, calibration, audit and the client turn every file into the same pixels.

A file is read, never run: only formats that Pillow decodes itself, and only after the size in its header was checked.
Nothing here needs torch.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from heatserve.training.data.colours import Decoded, grey_or_rgb, is_wide
from heatserve.training.data.errors import DataError
from heatserve.training.data.headers import (
    SIGNATURE_BYTES,
    check_tiff,
    has_late_text,
    is_cut_jpeg2000,
    what_it_is,
)

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, by Pillow's names. Others are refused: Pillow hands some of them, such as EPS, to other programs."""

MAX_PIXELS = 89_478_485
"""Most pixels of one image, height × width, as many as Pillow takes without a warning: 1.1 GB as float32 RGB."""

_ORIENTATION = 0x0112


def decode(file: str | Path | bytes, *, channels: int = 3) -> Decoded:
    """The pixels of an image file, upright as its EXIF orientation says; of a JPEG of several pictures, the first.

    Files of up to 8 bits are uint8, in which 255 is white. Integers of more bits are divided by their largest value,
    floats are taken as they are. Grey and colour are converted into each other. Colour profiles and gamma are not
    applied, and the size is not changed.

    Args:
        file: a path, or the bytes of a file.
        channels: C of the model: 1 for grey, 3 for RGB.

    Returns:
        uint8 [H, W, C]; or float32 [H, W, C] in [0,1] where the file has floats or more than 8 bits.

    Raises:
        DataError: not a regular file, not one of `FORMATS`, damaged, more than `MAX_PIXELS`, transparent anywhere,
            an animation, several pages, integers without a known white, or floats that are not in [0,1]. Names the
            file.
    """
    if channels not in (1, 3):
        raise DataError(f"channels: expected 1 (grey) or 3 (RGB), which image files have, got {channels}")
    with _explained(file), _bytes_of(file) as stream:
        return grey_or_rgb(lambda: _opened(stream), channels)


def decoded_size(file: str | Path | bytes) -> tuple[int, int]:
    """(height, width) of what `decode` returns. Only the header is read, so that damage behind it goes unnoticed.

    Raises:
        DataError: as `decode`, where the header shows it.
    """
    with _explained(file), _bytes_of(file) as stream, _opened(stream) as image:
        width, height = image.size
        is_stated_upright = isinstance(image, TiffImageFile)  # by Pillow
        return (width, height) if not is_stated_upright and _orientation(image, stream) >= 5 else (height, width)


def decoded_wide(file: str | Path | bytes) -> bool:
    """Whether `decode` returns float32, as of floats or of more than 8 bits. Only the header is read.

    Raises:
        DataError: as `decode`, where the header shows it.
    """
    with _explained(file), _bytes_of(file) as stream, _opened(stream) as image:
        return is_wide(image)


def to_bytes(pixels: Decoded) -> NDArray[np.uint8]:
    """Decoded pixels as uint8, floats rounded to the nearest of 256 levels: what a model with UINT8 input takes."""
    levels = pixels if pixels.dtype == np.uint8 else np.rint(pixels * np.float32(255))
    return levels.astype(np.uint8, copy=False)


def to_floats(pixels: Decoded) -> NDArray[np.float32]:
    """Decoded pixels as float32 in [0,1]: what a model with FP32 input takes."""
    levels = pixels if pixels.dtype == np.float32 else pixels / np.float32(255)
    return levels.astype(np.float32, copy=False)


def printable(name: str | Path) -> str:
    """The name of a file on one line: characters that do not print, and bytes that are no UTF-8, are escaped."""

    def escaped(character: str) -> str:
        is_byte = "\udc80" <= character <= "\udcff"  # how Python holds a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:x}" if is_byte else ascii(character)[1:-1]

    return "".join(character if character.isprintable() else escaped(character) for character in str(name))


def _orientation(image: ImageFile, stream: BinaryIO) -> int:
    """1 to 8 as EXIF has it; from 5 on, height and width change places."""
    if image.format == "PNG" and not has_late_text(stream):
        found = Image.Image.getexif(image).get(_ORIENTATION)  # PngImageFile.getexif decodes all pixels
    else:
        found = image.getexif().get(_ORIENTATION)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


@contextmanager
def _explained(file: str | Path | bytes) -> Iterator[None]:
    name = "image" if isinstance(file, bytes) else printable(file)
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except OSError as error:
        raise DataError(f"{name}: expected an image file, but it cannot be read: {error.strerror or error}") from None
    except Image.DecompressionBombError:
        raise DataError(f"{name}: expected 1 to {MAX_PIXELS} pixels, found many more; reduce the picture") from None
    except Exception as error:  # a decoder raises anything where a file is damaged
        why = f"{type(error).__name__}: {error}"
        raise DataError(f"{name}: expected an image file, but it cannot be read: {why}") from None


@contextmanager
def _bytes_of(file: str | Path | bytes) -> Iterator[BinaryIO]:
    if isinstance(file, bytes):
        yield io.BytesIO(file)
        return
    kind = Path(file).stat().st_mode
    if not stat.S_ISREG(kind):  # to open a pipe would wait for whoever writes to it
        raise DataError(f"expected an image file, found a {'folder' if stat.S_ISDIR(kind) else 'pipe or device'}")
    with Path(file).open("rb") as stream:
        yield stream


def _opened(stream: BinaryIO) -> ImageFile:
    """The image with its header read and checked, and no pixel decoded."""
    stream.seek(0)
    start = stream.read(SIGNATURE_BYTES)
    stream.seek(0)
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        raise DataError(f"expected an image file, found {what_it_is(start, readable=FORMATS)}") from None
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise DataError(f"expected 1 to {MAX_PIXELS} pixels, found {width}×{height}; reduce the picture")
    if image.format == "JPEG2000":
        stream.seek(0)
        if is_cut_jpeg2000(stream.read()):
            raise DataError("expected an image file, found a JPEG 2000 file that is truncated")
    if isinstance(image, TiffImageFile):
        check_tiff(image)
    elif image.format != "MPO" and getattr(image, "is_animated", False):
        raise DataError("expected one picture, found an animation; save the frame that is meant as a file of its own")
    return image
