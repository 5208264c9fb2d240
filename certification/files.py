"""Writing files so that a reader sees the old bytes or the new ones, never a mixture; appending, and reading texts."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heatserve.certification.errors import HeatserveError

LARGEST_TEXT = 2**24
"""Bytes of a text that is read whole, such as the names of classes."""


def read_text(path: Path, expected: str) -> str:
    """A text in UTF-8 from a regular file: a pipe would wait for ever, and a device may have no end.

    Args:
        path: the file.
        expected: what it should be, for the message.

    Raises:
        HeatserveError: no such file, none that is regular, more than `LARGEST_TEXT` bytes, or no UTF-8.
    """
    wrong = f"{path}: expected {expected}"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise HeatserveError(f"{wrong}, got {'a folder' if path.is_dir() else 'a pipe or device'}")
        if status.st_size > LARGEST_TEXT:
            raise HeatserveError(f"{wrong}, of at most {LARGEST_TEXT:,} bytes, got {status.st_size:,}")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise HeatserveError(f"{wrong}, but it cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise HeatserveError(f"{wrong} in UTF-8, got other bytes") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file in the same folder, flush it to disk, then rename it over `path`.

    Raises:
        OSError: names `path`, which is as it was; the system names no file, or the temporary one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _naming(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def append_text(path: Path, text: str) -> None:
    """Add to the end of a file, in UTF-8.

    Raises:
        OSError: names `path`, of which the end may be torn then.
    """
    with _naming(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
