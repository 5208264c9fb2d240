"""The file in which one process counts: series of numbers by name and labels, readable while it is written.

    bytes 0–7     how many bytes are in use, 8 of these included; written last when a series is added
    then, for each series:
        uint32    length of the key, padding included, so that what follows is aligned to 8 bytes
        uint32    0
        key       JSON [name, value of each label …], padded with spaces
        float64   the number
        float64   when it was set, in seconds since 1970; 0 of what is counted

A file is given room before it is written into: on a disk without room, a write into mapped memory ends the process.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import secrets
import struct
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SUFFIX = ".series"
Key = tuple[str, ...]
"""The name of a sample, and the values of its labels."""

_GROWTH = 16 * 1024
_MOST_BYTES = 2**20
_USED = struct.Struct("q")
_HEAD = struct.Struct("II")
_VALUES = struct.Struct("dd")  # as this machine has them, which are written at once: a reader sees no half of one


class SeriesFile:
    """The numbers of one process, which holds a lock on the file until it ends. Not for several threads at once."""

    def __init__(self, folder: Path | None) -> None:
        """Make the file, with no series.

        Args:
            folder: where; None, or a folder that takes no file: the numbers are kept in memory, and nobody reads them.
        """
        self._file: int | None = None
        self._capacity = 0
        self._used = _USED.size
        self._memory: mmap.mmap | None = None
        if folder is not None:
            with suppress(OSError):
                self._file = _new_file(folder)
                weakref.finalize(self, os.close, self._file)
        self._grow(self._used)

    def slot(self, key: Key) -> int | None:
        """A new series of value 0, by the place of its number; None: there is no room for it."""
        text = json.dumps(key, ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        end = self._used + _HEAD.size + len(text) + _VALUES.size
        if not self._grow(end):
            return None
        memory = self._memory
        assert memory is not None
        _HEAD.pack_into(memory, self._used, len(text), 0)
        start = self._used + _HEAD.size
        memory[start : start + len(text)] = text
        place = start + len(text)
        _VALUES.pack_into(memory, place, 0.0, 0.0)
        self._used = end
        _USED.pack_into(memory, 0, end)
        return place

    def write(self, place: int, value: float, when: float = 0.0) -> None:
        """Set the number at a place."""
        assert self._memory is not None
        _VALUES.pack_into(self._memory, place, value, when)

    def _grow(self, size: int) -> bool:
        """Whether there is room for so many bytes, which is made where it is missing."""
        if size <= self._capacity:
            return True
        capacity = -(-size // _GROWTH) * _GROWTH
        if capacity > _MOST_BYTES:
            return False
        if self._file is None:
            memory = mmap.mmap(-1, capacity)
        else:
            try:
                os.posix_fallocate(self._file, 0, capacity)
                memory = mmap.mmap(self._file, capacity)
            except OSError:
                return False
        if self._memory is not None and self._file is None:
            memory[: self._used] = self._memory[: self._used]
        if self._memory is None:
            _USED.pack_into(memory, 0, self._used)
        self._memory, self._capacity = memory, capacity
        return True


def _new_file(folder: Path) -> int:
    """The descriptor of a new file, locked before anybody can find it."""
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    hidden = folder / f".{name}"
    file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(folder / f"{name}{SUFFIX}")
    except OSError:
        os.close(file)
        hidden.unlink(missing_ok=True)
        raise
    return file


def read_series(content: bytes) -> Iterator[tuple[Key, float, float]]:
    """The series of such a file: key, number and when it was set. What is not whole is left out."""
    if len(content) < _USED.size:
        return
    (used,) = _USED.unpack_from(content, 0)
    place, end = _USED.size, min(used, len(content))
    while place + _HEAD.size <= end:
        length, _ = _HEAD.unpack_from(content, place)
        values = place + _HEAD.size + length
        if values + _VALUES.size > end:
            return
        key = tuple(json.loads(content[place + _HEAD.size : values]))
        yield key, *_VALUES.unpack_from(content, values)
        place = values + _VALUES.size
