"""A log that cannot fill the disk: what a program writes passes through a pipe, and a file keeps the newest of it."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

LOG_BYTES = 8 * 2**20
"""The largest size of a log; past it, the older half goes."""

_CHUNK_BYTES = 2**16


class BoundedLog:
    """A file, for this user only, of the newest lines that were written into `writer`.

    A disk without room costs lines, and never holds the program up that writes them.

    Attributes:
        path: the file.
        writer: the end of the pipe to hand to the program; to be closed here once it has it.
    """

    def __init__(self, path: Path, *, limit: int = LOG_BYTES) -> None:
        """Make the file and start to fill it.

        Args:
            path: where there is no file yet.
            limit: bytes that the file holds at most; at least 128 KiB.

        Raises:
            OSError: the file is there already, or cannot be made.
        """
        self.path = path
        self._limit = limit
        file = open(path, "xb+", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
        reading, writing = os.pipe()
        self.writer = os.fdopen(writing, "wb", buffering=0)
        self._thread = threading.Thread(target=self._collect, args=(reading, file), daemon=True)
        self._thread.start()

    def settle(self, *, seconds: float) -> None:
        """Wait until all is written that came; at most so long, where a process still holds the pipe."""
        self._thread.join(seconds)

    def _collect(self, reading: int, file: BinaryIO) -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe, file:
            while chunk := pipe.read(_CHUNK_BYTES):
                with suppress(OSError):  # no room
                    self._append(file, chunk)

    def _append(self, file: BinaryIO, chunk: bytes) -> None:
        if file.tell() + len(chunk) > self._limit:
            file.seek(-min(file.tell(), self._limit // 2), os.SEEK_END)
            newest = file.read().partition(b"\n")[2]
            file.seek(0)
            file.truncate()
            file.write(b"(older lines were removed)\n" + newest)
        file.write(chunk)
