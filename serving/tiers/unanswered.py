"""How many requests of a tier are not answered yet, in a file that the server reads at its end; Triton knows not."""

from __future__ import annotations

import mmap
import struct
import threading
from pathlib import Path

_COUNT = struct.Struct("=q")


class UnansweredCount:
    """The count of one tier's process, in memory that it shares with whoever reads the file."""

    def __init__(self, folder: Path, tier: str) -> None:
        """Count from 0.

        Args:
            folder: where the voter listens.
            tier: the name of the tier.
        """
        path = _path(folder, tier)
        path.write_bytes(_COUNT.pack(0))
        with path.open("rb+") as file:
            self._memory = mmap.mmap(file.fileno(), _COUNT.size)
        self._count = 0
        self._changing = threading.Lock()

    def add(self, change: int) -> None:
        """Count requests that wait for votes from now on, or, below 0, that were answered."""
        with self._changing:
            self._count += change
            _COUNT.pack_into(self._memory, 0, self._count)


def unanswered(folder: Path, tier: str) -> int:
    """How many requests of that tier are not answered yet; none where it has never started."""
    try:
        (count,) = _COUNT.unpack(_path(folder, tier).read_bytes())
    except (OSError, struct.error):
        return 0
    return int(count)


def _path(folder: Path, tier: str) -> Path:
    return folder / f"{tier}.unanswered"
