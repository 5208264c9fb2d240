"""What a file is that cannot be decoded, by its first bytes: the name is for an error message."""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image

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
