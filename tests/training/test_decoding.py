"""One reader: every kind of picture stands for its pixels, alike in training and for a server, or is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import picture_kinds
import pytest
from numpy.typing import NDArray
from picture_kinds import DEEP, DEEP_RGB, GREY, RGB, Kind, exif, png, saved, tiff
from PIL import Image

from heatserve.serving.client.image_files import read_images
from heatserve.serving.errors import ServingError
from heatserve.training.data.colours import Decoded
from heatserve.training.data.decoding import (
    MAX_PIXELS,
    decode,
    decoded_size,
    decoded_wide,
    printable,
    to_bytes,
    to_floats,
)
from heatserve.training.data.errors import DataError
from heatserve.training.data.images import FileImages
from heatserve.training.data.resizing import resize_and_crop
from heatserve.training.torchvision_import import import_torchvision

KINDS = picture_kinds.all_kinds()
READ = [kind for kind in KINDS if kind.levels is not None]
REFUSED = [kind for kind in KINDS if kind.levels is None]


def unchanged(pixels: Decoded) -> Decoded:
    return pixels


@pytest.mark.parametrize("kind", READ, ids=str)
def test_a_file_is_decoded_to_what_it_stands_for(kind: Kind) -> None:
    assert kind.levels is not None
    levels = kind.levels if kind.levels.ndim == 3 else np.repeat(kind.levels[..., None], 3, axis=-1)
    pixels = decode(kind.content)
    assert pixels.shape == levels.shape
    assert decoded_size(kind.content) == levels.shape[:2]
    assert decoded_wide(kind.content) == (pixels.dtype == np.float32)
    np.testing.assert_allclose(to_floats(pixels), levels, rtol=0, atol=kind.tolerance + 1e-7)


@pytest.mark.parametrize("kind", READ, ids=str)
def test_training_and_a_server_get_the_same_pixels_of_a_file(kind: Kind, tmp_path: Path) -> None:
    path = kind.write(tmp_path)
    images = FileImages((path,), (0,), unchanged)
    shape = (3, *decoded_size(path))
    trained_on, _ = images[0]
    (sent,) = read_images(path, shape, "FP32")
    assert sent.dtype == trained_on.numpy().dtype == np.float32
    np.testing.assert_array_equal(sent, trained_on.numpy())
    (sent,) = read_images(path, shape, "UINT8")
    assert sent.dtype == np.uint8
    np.testing.assert_array_equal(sent, images.picture(0))
    assert abs(sent.transpose(2, 0, 1) / 255 - trained_on.numpy()).max() < 0.5001 / 255


@pytest.mark.parametrize("kind", REFUSED, ids=str)
def test_a_file_without_one_meaning_is_refused_alike_and_by_name(kind: Kind, tmp_path: Path) -> None:
    path = kind.write(tmp_path)
    with pytest.raises(DataError) as in_training:
        FileImages((path,), (0,), unchanged)[0]
    with pytest.raises(ServingError) as by_the_client:
        read_images(path, (3, -1, -1), "UINT8")
    assert str(by_the_client.value) == str(in_training.value)
    assert str(in_training.value).startswith(f"{path}: expected ")


@pytest.mark.parametrize("kind", READ, ids=str)
def test_colours_become_grey_by_their_luma_and_grey_stays_what_it_is(kind: Kind) -> None:
    grey, colours = decode(kind.content, channels=1), decode(kind.content)
    assert grey.shape == (*colours.shape[:2], 1)
    if grey.dtype == np.uint8:
        luma = colours.astype(np.int64) @ [19595, 38470, 7471]
        np.testing.assert_array_equal(grey[..., 0], (luma + 32768) >> 16)
    else:
        np.testing.assert_allclose(grey[..., 0], colours @ [0.299, 0.587, 0.114], rtol=0, atol=1e-5)
    if kind.levels is not None and kind.levels.ndim == 2:
        np.testing.assert_array_equal(grey, colours[..., :1])


def test_the_page_has_what_becomes_of_every_kind() -> None:
    """`python tests/picture_kinds.py` writes it anew."""
    assert picture_kinds.PAGE.read_text() == picture_kinds.page()


def test_16_bits_are_scaled_and_never_cut_off() -> None:
    """A 16-bit file of 257 v stands for what the 8-bit file of v does; others lie between."""
    for eight, sixteen in ((GREY, GREY * np.uint16(257)), (RGB, RGB * np.uint16(257))):
        colours = 2 if eight.ndim == 3 else 0
        deep = png(sixteen, bits=16, colours=colours)
        np.testing.assert_array_equal(to_floats(decode(deep)), to_floats(decode(saved(eight, "PNG"))))
        np.testing.assert_array_equal(to_bytes(decode(deep)), decode(saved(eight, "PNG")))
    assert len(np.unique(decode(saved(DEEP, "PNG")))) == len(np.unique(DEEP))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WebP", "JPEG2000", "PPM", "AVIF"])
def test_a_file_that_is_cut_anywhere_is_refused_unless_no_pixel_is_missing(form: str) -> None:
    content = saved(RGB, form)
    whole, refused = decode(content), 0
    for length in range(len(content)):
        try:
            np.testing.assert_array_equal(decode(content[:length]), whole)
        except DataError:
            refused += 1
    assert refused > len(content) / 2


def test_a_jpeg2000_that_is_cut_between_two_tiles_is_refused() -> None:
    content = saved(np.tile(RGB, (4, 4, 1)), "JPEG2000", tile_size=(16, 16))
    tiles = [at for at in range(len(content)) if content.startswith(b"\xff\x90\0\x0a", at)]
    assert len(tiles) == 6
    for at in tiles:
        with pytest.raises(DataError, match="JPEG 2000 file that is truncated"):
            decode(content[:at])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_size_is_checked_before_a_pixel_is_decoded() -> None:
    side = int(MAX_PIXELS**0.5) + 1  # Pillow only warns of as many
    for form in ("BMP", "GIF"):
        content = bytearray(saved(GREY, form))
        at, width = (18, 4) if form == "BMP" else (6, 2)
        content[at : at + 2 * width] = side.to_bytes(width, "little") * 2
        with pytest.raises(DataError, match=rf"expected 1 to {MAX_PIXELS} pixels, found {side}×{side}"):
            decode(bytes(content))


@pytest.mark.parametrize("is_late", [False, True])
def test_the_size_of_a_png_is_that_of_the_upright_picture_wherever_it_says_so(is_late: bool) -> None:
    content = saved(RGB, "PNG", exif=exif(6))
    at, end = content.index(b"eXIf") - 4, content.index(b"IDAT") - 4
    if is_late:
        content = content[:at] + content[end:-12] + content[at:end] + content[-12:]
    assert decoded_size(content) == decode(content).shape[:2] == RGB.shape[1::-1]
    damaged = content.replace(b"IDAT\x78", b"IDAT\xff")
    if not is_late:
        assert decoded_size(damaged) == RGB.shape[1::-1]
    with pytest.raises(DataError, match="cannot be read"):
        decode(damaged)


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: expected an image file, found a pipe or device"):
        decode(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"expected an image file, found a folder"):
        decode(tmp_path)
    with pytest.raises(DataError, match=r"none\.png: expected an image file, but it cannot be read: No such file"):
        decode(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("name", "printed"),
    [("é ü.png", "é ü.png"), ("a\nb\x1b[2J.png", r"a\nb\x1b[2J.png"), (os.fsdecode(b"caf\xe9.png"), r"caf\xe9.png")],
)
def test_a_name_prints_on_one_line_in_any_encoding(tmp_path: Path, name: str, printed: str) -> None:
    assert printable(name) == printed
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        decode(tmp_path / name)
    assert str(caught.value).encode().decode() == f"{tmp_path}/{printed}: expected an image file, found an empty file"


def test_threads_decode_what_one_does() -> None:
    files = [png(DEEP_RGB, bits=16, colours=2), tiff(DEEP_RGB, photometric=2, bits=16), saved(RGB, "JPEG")] * 40
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(decode, files))
    for index, pixels in enumerate(found):
        np.testing.assert_array_equal(pixels, found[index % 3])


def test_a_client_decodes_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = sys.modules['scipy'] = None\n"
        "from heatserve.serving import read_images; read_images(sys.argv[1], (3, -1, -1))"
    )
    page = str(picture_kinds.PAGE)
    done = subprocess.run([sys.executable, "-c", code, page], capture_output=True, text=True, check=False)
    assert f"ServingError: {page}: expected an image file, found none of AVIF" in done.stderr


def random_picture(generator: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    return generator.integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "resize", "crop"), [(40, 61, 20, 16), (61, 40, 33, 33), (7, 200, 12, 8), (31, 33, 16, 24)]
)
def test_resizing_is_that_of_torchvision_and_keeps_floats(height: int, width: int, resize: int, crop: int) -> None:
    picture = random_picture(np.random.default_rng(0), height, width)
    transforms = import_torchvision("transforms")
    expected = transforms.CenterCrop(crop)(transforms.Resize(resize)(Image.fromarray(picture)))
    found = resize_and_crop(picture, resize=resize, crop=crop)
    np.testing.assert_array_equal(found, np.asarray(expected))
    floats = resize_and_crop(to_floats(picture), resize=resize, crop=crop)
    assert floats.dtype == np.float32
    assert 0 <= floats.min() <= floats.max() <= 1
    np.testing.assert_allclose(floats, to_floats(found), rtol=0, atol=1.01 / 255)
    assert len(np.unique(floats)) > 256 or crop < 16
