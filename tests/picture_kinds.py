"""A small file of every kind of picture, and what it stands for. As a program it renews docs/guide/pictures.md."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from heatserve.training.data.decoding import decode
from heatserve.training.data.errors import DataError

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "pictures.md"
_MARKS = "<!-- table -->\n", "<!-- end of table -->\n"

HEIGHT, WIDTH = 8, 12
_ROWS, _COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
GREY = (_ROWS * 30 + _COLUMNS).astype(np.uint8)
RGB = np.stack([_ROWS * 30, _COLUMNS * 20, 200 - _ROWS * 10 - _COLUMNS * 5], axis=-1).astype(np.uint8)
DEEP = (_ROWS * 8111 + _COLUMNS * 617).astype(np.uint16)
DEEP_RGB = np.stack([DEEP, 65535 - DEEP, DEEP // 3], axis=-1).astype(np.uint16)
FEW = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [250, 240, 230]], np.uint8)
FEW_AT = ((_ROWS + _COLUMNS) % 4).astype(np.uint8)
OPAQUE, HALF = np.full((HEIGHT, WIDTH, 1), 255, np.uint8), np.full((HEIGHT, WIDTH, 1), 128, np.uint8)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        file: its format, and the extension of its name.
        what: what kind of that format.
        content: a file of the kind.
        levels: what its pixels stand for, [H, W] or [H, W, 3] in [0,1]; None: it is refused.
        tolerance: by which pixels of a lossy format may differ.
        note: what the page says besides.
    """

    file: str
    what: str
    content: bytes
    levels: NDArray[Any] | None
    tolerance: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"

    def write(self, folder: Path) -> Path:
        """The kind as a file in `folder`."""
        path = folder / f"picture.{self.file.split()[0].lower()}"
        path.write_bytes(self.content)
        return path


def saved(pixels: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    """What Pillow writes of them in the format `kind`."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int) -> Image.Exif:
    """EXIF data that say nothing but an orientation."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def png(
    samples: NDArray[Any], *, bits: int, colours: int, transparent: Sequence[int] = (), lace: bool = False
) -> bytes:
    """A PNG that Pillow does not write.

    Args:
        samples: [H, W] or [H, W, samples of a pixel] in [0, 2**bits).
        bits: of a sample: 1, 2, 4, 8 or 16.
        colours: the colour type: 0 grey, 2 RGB, 4 grey with alpha, 6 RGB with alpha.
        transparent: the one colour that is (tRNS).
        lace: whether it is interlaced.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def lines(part: NDArray[Any]) -> bytes:
        if not part.size:
            return b""
        if bits == 16:
            packed = part.astype(">u2").reshape(len(part), -1).view(np.uint8)
        else:
            each = np.unpackbits(part.astype(np.uint8)[..., None], axis=-1)[..., -bits:]
            packed = np.packbits(each.reshape(len(part), -1), axis=-1)
        return b"".join(b"\0" + line.tobytes() for line in packed)

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [samples[top::down, left::right] for top, left, down, right in passes] if lace else [samples]
    header = struct.pack(">IIBBBBB", *samples.shape[1::-1], bits, colours, 0, 0, lace)
    key = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    data = chunk(b"IDAT", zlib.compress(b"".join(map(lines, parts))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + data + chunk(b"IEND", b"")


def tiff(
    samples: NDArray[Any],
    *,
    photometric: int,
    bits: int,
    form: int = 1,
    order: Literal["<", ">"] = "<",
    zipped: bool = False,
) -> bytes:
    """A TIFF that Pillow does not write, in one strip.

    Args:
        samples: [H, W] or [H, W, samples of a pixel], as they are stored; bytes [H, …] where `bits` is 12.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK.
        bits: of a sample.
        form: 1 unsigned, 2 signed, 3 float.
        order: of bytes: `<` or `>`.
        zipped: whether it is compressed.
    """
    of_pixel = 1 if samples.ndim == 2 else samples.shape[2]
    width = samples.shape[1] * 8 // bits if bits == 12 else samples.shape[1]
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if zipped else data
    depth = [bits] * of_pixel
    tags = [
        (256, [width]), (257, [samples.shape[0]]), (258, depth), (259, [8 if zipped else 1]), (262, [photometric]),
        (273, [8]), (277, [of_pixel]), (278, [samples.shape[0]]), (279, [len(data)]), (339, [form] * of_pixel),
    ]  # fmt: skip
    after = 8 + len(data) + len(data) % 2
    rest = after + 2 + 12 * len(tags) + 4
    entries = extra = b""
    for tag, values in tags:
        packed = struct.pack(f"{order}{len(values)}H", *values)
        where = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", rest + len(extra))
        extra += packed if len(packed) > 4 else b""
        entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + where
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, after)
    return start + data + b"\0" * (len(data) % 2) + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + extra


def _png_kinds() -> Iterator[Kind]:
    for bits in (1, 2, 4, 8, 16):
        few = (DEEP if bits == 16 else GREY) & (2**bits - 1)
        yield Kind("PNG", f"grey, {bits} bits", png(few, bits=bits, colours=0), few / (2**bits - 1))
    yield Kind("PNG", "grey, 16 bits, by Pillow", saved(DEEP, "PNG"), DEEP / 65535)
    yield Kind("PNG", "RGB, 8 bits", saved(RGB, "PNG"), RGB / 255)
    yield Kind("PNG", "RGB, 16 bits", png(DEEP_RGB, bits=16, colours=2), DEEP_RGB / 65535)
    yield Kind("PNG", "RGB, 16 bits, interlaced", png(DEEP_RGB, bits=16, colours=2, lace=True), DEEP_RGB / 65535)
    for bits in (1, 2, 4, 8):
        few = FEW_AT & (2**bits - 1)
        yield Kind("PNG", f"palette, {bits} bits", saved(_palette(few), "PNG", bits=bits), FEW[few] / 255)
    opaque, clear = bytes([255, 255, 255, 255, 0]), bytes([255, 0, 255, 255])
    yield Kind(
        "PNG", "palette, tRNS of no pixel", saved(_palette(FEW_AT), "PNG", transparency=opaque), FEW[FEW_AT] / 255
    )
    yield Kind("PNG", "palette, tRNS", saved(_palette(FEW_AT), "PNG", transparency=clear), None)
    for bits in (1, 2, 4, 8, 16):
        few = (DEEP if bits == 16 else GREY) & (2**bits - 1)
        content = png(few, bits=bits, colours=0, transparent=[int(few[3, 5])])
        yield Kind("PNG", f"grey, {bits} bits, tRNS", content, None)
    for bits, pixels in ((8, RGB), (16, DEEP_RGB)):
        white = 2**bits - 1
        key, other = pixels[3, 5].tolist(), pixels[3, 5][::-1].tolist()
        yield Kind("PNG", f"RGB, {bits} bits, tRNS", png(pixels, bits=bits, colours=2, transparent=key), None)
        content = png(pixels, bits=bits, colours=2, transparent=other)
        yield Kind("PNG", f"RGB, {bits} bits, tRNS of no pixel", content, pixels / white)
        for name, alpha in (("opaque", OPAQUE), ("transparent", HALF)):
            levels = alpha.astype(np.uint16) * (white // 255)
            colours = np.concatenate([pixels, levels], axis=2)
            grey = np.concatenate([pixels[..., :1], levels], axis=2)
            yield Kind(
                "PNG",
                f"RGB and alpha, {bits} bits, {name}",
                png(colours, bits=bits, colours=6),
                None if alpha is HALF else pixels / white,
            )
            yield Kind(
                "PNG",
                f"grey and alpha, {bits} bits, {name}",
                png(grey, bits=bits, colours=4),
                None if alpha is HALF else pixels[..., 0] / white,
            )
    yield Kind("PNG", "turned (eXIf)", saved(RGB, "PNG", exif=exif(6)), np.rot90(RGB, -1) / 255)
    yield Kind("PNG", "animated", _animated("PNG"), None)


def _palette(indices: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(indices).convert("L")
    image.putpalette(FEW.tobytes())
    return image


def _animated(kind: str, **options: Any) -> bytes:
    return saved(
        Image.fromarray(RGB), kind, save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())], **options
    )


_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {  # what a viewer does to what is stored
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def _jpeg_kinds() -> Iterator[Kind]:
    best, lossy = {"quality": 100, "subsampling": 0}, 4 / 255
    yield Kind("JPEG", "grey", saved(GREY, "JPEG", **best), GREY / 255, lossy)
    yield Kind("JPEG", "colour", saved(RGB, "JPEG", **best), RGB / 255, lossy)
    yield Kind("JPEG", "progressive", saved(RGB, "JPEG", progressive=True, **best), RGB / 255, lossy)
    for orientation, upright in _UPRIGHT.items():
        content = saved(RGB, "JPEG", exif=exif(orientation), **best)
        yield Kind("JPEG", f"EXIF orientation {orientation}", content, upright(RGB) / 255, lossy)
    inks = np.concatenate([RGB, GREY[..., None] // 4], axis=2)
    paper = (1 - RGB / 255) * (1 - inks[..., 3:] / 255)
    yield Kind("JPEG", "CMYK", saved(Image.fromarray(inks, "CMYK"), "JPEG", **best), paper, lossy)
    luma = np.stack([255 - GREY, GREY * 0 + 127, GREY * 0 + 127, GREY * 0], axis=-1)
    marked = bytearray(saved(Image.fromarray(luma, "CMYK"), "JPEG", **best))
    marked[marked.index(b"Adobe") + 11] = 2  # its components are luma, two of chroma, and black
    yield Kind("JPEG", "YCCK", bytes(marked), 1 - GREY / 255, lossy)
    yield Kind("JPEG", "of several pictures (MPO)", _animated("MPO", **best), RGB / 255, lossy, "the first")


def _tiff_kinds() -> Iterator[Kind]:
    yield Kind("TIFF", "1 bit", saved(Image.fromarray(GREY % 2 * 255).convert("1"), "TIFF"), GREY % 2)
    yield Kind("TIFF", "grey, 8 bits", saved(GREY, "TIFF"), GREY / 255)
    yield Kind("TIFF", "grey, 8 bits, white is zero", tiff(GREY, photometric=0, bits=8), 1 - GREY / 255)
    twelve = DEEP[:, :, None] >> np.array([4])
    pairs = twelve.reshape(HEIGHT, WIDTH // 2, 2)
    bytes_of = [pairs[..., 0] >> 4, (pairs[..., 0] % 16 << 4) | (pairs[..., 1] >> 8), pairs[..., 1] % 256]
    packed = np.stack(bytes_of, axis=-1).reshape(HEIGHT, -1).astype(np.uint8)
    yield Kind("TIFF", "grey, 12 bits", tiff(packed, photometric=1, bits=12), (DEEP >> 4) / 4095)
    yield Kind("TIFF", "grey, 16 bits", saved(DEEP, "TIFF"), DEEP / 65535)
    yield Kind("TIFF", "grey, 16 bits, big-endian", tiff(DEEP, photometric=1, bits=16, order=">"), DEEP / 65535)
    yield Kind("TIFF", "grey, 16 bits, white is zero", tiff(DEEP, photometric=0, bits=16), 1 - DEEP / 65535)
    yield Kind("TIFF", "grey, 16 bits, LZW", saved(DEEP, "TIFF", compression="tiff_lzw"), DEEP / 65535)
    orders: tuple[tuple[Literal["<", ">"], str], ...] = (("<", ""), (">", ", big-endian"))
    for order, name in orders:
        yield Kind("TIFF", f"RGB, 16 bits{name}", tiff(DEEP_RGB, photometric=2, bits=16, order=order), DEEP_RGB / 65535)
        content = tiff(DEEP_RGB, photometric=2, bits=16, order=order, zipped=True)
        yield Kind("TIFF", f"RGB, 16 bits{name}, deflate", content, DEEP_RGB / 65535)
    yield Kind("TIFF", "palette", saved(_palette(FEW_AT), "TIFF"), FEW[FEW_AT] / 255)
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits"):
        yield Kind("TIFF", f"RGB, {compression}", saved(RGB, "TIFF", compression=compression), RGB / 255)
    yield Kind("TIFF", "turned", saved(RGB, "TIFF", exif=exif(8)), np.rot90(RGB) / 255)
    for name, alpha in (("opaque", OPAQUE), ("transparent", HALF)):
        content = saved(np.concatenate([RGB, alpha], axis=2), "TIFF")
        yield Kind("TIFF", f"RGB and alpha, {name}", content, None if alpha is HALF else RGB / 255)
    inks = np.concatenate([RGB, GREY[..., None] // 4], axis=2)
    paper = (1 - RGB / 255) * (1 - inks[..., 3:] / 255)
    yield Kind("TIFF", "CMYK, 8 bits", saved(Image.fromarray(inks, "CMYK"), "TIFF"), paper, 1 / 255)
    deep = np.concatenate([DEEP_RGB, DEEP[..., None] // 4], axis=2)
    paper = (1 - DEEP_RGB / 65535) * (1 - deep[..., 3:] / 65535)
    yield Kind("TIFF", "CMYK, 16 bits", tiff(deep, photometric=5, bits=16), paper)
    soft = RGB // 4 + np.uint8(96)  # colours that 8-bit LAB has all of
    lab = ImageCms.applyTransform(
        Image.fromarray(soft),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert lab is not None
    yield Kind("TIFF", "LAB", saved(lab, "TIFF"), soft / 255, 4 / 255)
    yield Kind(
        "TIFF", "floats in [0,1]", saved((DEEP / 65535).astype(np.float32), "TIFF"), (DEEP / 65535).astype(np.float32)
    )
    yield Kind("TIFF", "floats up to 255", saved(GREY.astype(np.float32), "TIFF"), None)
    yield Kind(
        "TIFF", "floats, one of them NaN", saved(np.where(GREY == 0, np.nan, 0.5).astype(np.float32), "TIFF"), None
    )
    yield Kind("TIFF", "signed integers, 8 bits", tiff(GREY, photometric=1, bits=8, form=2), None)
    yield Kind("TIFF", "signed integers, 16 bits", tiff(DEEP, photometric=1, bits=16, form=2), None)
    yield Kind("TIFF", "integers, 32 bits", tiff(DEEP.astype(np.uint32), photometric=1, bits=32), None)
    yield Kind("TIFF", "several pages", _animated("TIFF"), None)


def _other_kinds() -> Iterator[Kind]:
    both = np.concatenate([RGB, OPAQUE], axis=2), np.concatenate([RGB, HALF], axis=2)
    for form, options, tolerance in (
        ("WebP", {"lossless": True}, 0.0),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 4 / 255),
        ("JPEG2000", {}, 0.0),
    ):
        yield Kind(form, "RGB", saved(RGB, form, **options), RGB / 255, tolerance)
        yield Kind(form, "RGB and alpha, opaque", saved(both[0], form, **options), RGB / 255, tolerance)
        yield Kind(form, "RGB and alpha, transparent", saved(both[1], form, **options), None)
    yield Kind("WebP", "lossy", saved(RGB, "WebP", quality=100), RGB / 255, 24 / 255)
    yield Kind("WebP", "turned (EXIF)", saved(RGB, "WebP", lossless=True, exif=exif(6)), np.rot90(RGB, -1) / 255)
    yield Kind("WebP", "animated", _animated("WebP", lossless=True), None)
    yield Kind("AVIF", "animated", _animated("AVIF"), None)
    yield Kind(
        "AVIF",
        "turned",
        saved(RGB, "AVIF", exif=exif(6), quality=100, subsampling="4:4:4"),
        np.rot90(RGB, -1) / 255,
        4 / 255,
    )
    yield Kind("JPEG2000", "grey, 16 bits", saved(DEEP, "JPEG2000"), DEEP / 65535)
    yield Kind("GIF", "grey", saved(GREY, "GIF"), GREY / 255)
    yield Kind("GIF", "palette", saved(_palette(FEW_AT), "GIF"), FEW[FEW_AT] / 255)
    yield Kind("GIF", "transparent", saved(_palette(FEW_AT), "GIF", transparency=1), None)
    frames = [_palette(FEW_AT[::-1].copy())]
    content = saved(_palette(FEW_AT), "GIF", save_all=True, append_images=frames)
    yield Kind("GIF", "animated", content, None)
    for mode, levels in (("1", GREY % 2), ("L", GREY / 255), ("RGB", RGB / 255)):
        pixels = Image.fromarray(GREY % 2 * 255 if mode == "1" else GREY if mode == "L" else RGB).convert(mode)
        yield Kind("BMP", {"1": "1 bit", "L": "grey", "RGB": "RGB"}[mode], saved(pixels, "BMP"), levels)
        yield Kind("PPM", {"1": "1 bit (PBM)", "L": "grey (PGM)", "RGB": "RGB"}[mode], saved(pixels, "PPM"), levels)
    yield Kind("BMP", "palette", saved(_palette(FEW_AT), "BMP"), FEW[FEW_AT] / 255)
    header = b"P5 %d %d 1023\n" % (WIDTH, HEIGHT)
    ten = DEEP >> 6
    yield Kind("PPM", "grey, 10 bits", header + ten.astype(">u2").tobytes(), ten / 1023, 1 / 65535)
    content = b"P6 %d %d 65535\n" % (WIDTH, HEIGHT) + DEEP_RGB.astype(">u2").tobytes()
    yield Kind("PPM", "RGB, 16 bits", content, DEEP_RGB / 65535, 0.5001 / 255, "rounded to 8 bits by Pillow")
    yield Kind(
        "PPM", "floats (PFM)", saved((DEEP / 65535).astype(np.float32), "PPM"), (DEEP / 65535).astype(np.float32)
    )


def _no_pictures() -> Iterator[Kind]:
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WebP", "JPEG2000", "PPM", "AVIF"):
        whole = saved(RGB, form)
        yield Kind(form, "truncated", whole[: len(whole) * 6 // 10], None)
    tall = bytearray(tiff(GREY, photometric=1, bits=8))
    at = tall.index(struct.pack("<HHIH", 257, 3, 1, HEIGHT))
    tall[at : at + 12] = struct.pack("<HHII", 257, 3, 1, 4000)
    yield Kind("TIFF", "4000 lines, of which 8 are there", bytes(tall), None)
    small = png(GREY, bits=8, colours=0)
    large = small[:16] + struct.pack(">II", 30000, 30000) + small[24:29]
    yield Kind("PNG", "30000×30000 pixels", large + struct.pack(">I", zlib.crc32(large[12:])) + small[33:], None)
    yield Kind("HEIC", "", b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(64), None)
    yield Kind("SVG", "", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', None)
    yield Kind("EPS", "", saved(RGB, "EPS"), None)
    yield Kind("ICO", "", saved(RGB, "ICO", sizes=[(8, 8)]), None)
    yield Kind("PDF", "", saved(RGB, "PDF"), None)
    yield Kind("PNG", "is an HTML page", b"<!DOCTYPE html><html><body>404</body></html>", None)
    yield Kind("PNG", "is a ZIP archive", b"PK\x03\x04" + bytes(30), None)
    yield Kind("PNG", "is a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", None)
    yield Kind("PNG", "is text", b"no picture\n", None)
    yield Kind("PNG", "empty", b"", None)


def all_kinds() -> list[Kind]:
    """A file of every kind, by format."""
    kinds = [*_png_kinds(), *_jpeg_kinds(), *_tiff_kinds(), *_other_kinds(), *_no_pictures()]
    order = list(dict.fromkeys(kind.file for kind in kinds))
    return sorted(kinds, key=lambda kind: order.index(kind.file))


def table() -> str:
    """What becomes of each kind, in Markdown, as `decode` has it now: a row for those of a format with one result."""
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind in all_kinds():
        rows[kind.file, _result(kind)].append(kind.what)
    lines = [f"| {file} | {'; '.join(filter(None, kinds))} | {result} |" for (file, result), kinds in rows.items()]
    return "\n".join(["| file | kind | read as |", "|---|---|---|", *lines]) + "\n"


def _result(kind: Kind) -> str:
    try:
        depth = "8 bits" if decode(kind.content).dtype == np.uint8 else "float32, all bits"
    except DataError as error:
        why = str(error).removeprefix("image: ").split(";")[0]
        if re.search("cannot be read|is damaged|is truncated", str(error)):
            why = "damaged"
        return "refused: " + re.sub(r"\d+ of \d+ pixels", "pixels that are", why)
    return f"{depth} ({kind.note})" if kind.note else depth


def page() -> str:
    """The page of the kinds with its table as it should be."""
    before, rest = PAGE.read_text().split(_MARKS[0])
    return before + _MARKS[0] + table() + _MARKS[1] + rest.split(_MARKS[1])[1]


if __name__ == "__main__":
    PAGE.write_text(page())
