"""What identifies the pixels of many files: each is decoded once, and what was found is kept in the user's cache."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from heatserve.certification.files import write_atomically
from heatserve.certification.pixels import pixel_digest
from heatserve.certification.progress import Progress, unseen
from heatserve.training.data.decoding import decode, to_bytes
from heatserve.training.data.errors import DataError

_READER = 2
"""Counts the changes of what `decode` makes of a file: what an earlier one found is not used."""
_FILES_AT_A_TIME = 16
_KEEP_EVERY = 60.0
"""Seconds of work after which what was found is written, so that an interruption loses no more."""
_WORTH_KEEPING = 2.0
"""Seconds: what took less to find is found again."""
_RECORD = np.dtype(
    [
        ("file", "<u8"),
        ("pixels", "<u8"),
        ("outline", "<u8"),
        ("colours", "u1", (48,)),
        ("height", "<i4"),
        ("width", "<i4"),
    ]
)
_Records = NDArray[np.void]
"""Fields of `_RECORD`, [N]."""

_Print = tuple[int, int, NDArray[np.uint8], int, int]
"""`pixels`, `outline`, `colours`, height and width of one picture, as in `Fingerprints`."""


@dataclass(frozen=True)
class Fingerprints:
    """What was found in N files, in their order."""

    pixels: NDArray[np.uint64]
    """`pixel_digest` of each picture as a number, [N]; 0 where it cannot be read."""
    outlines: NDArray[np.uint64]
    """A hash of each picture at 9×8 grey pixels, [N]: see `outline`."""
    colours: NDArray[np.uint8]
    """Each picture at 4×4 pixels, [N, 48]."""
    sizes: NDArray[np.int32]
    """Height and width of each picture, upright, [N, 2]."""
    unreadable: dict[int, str]
    """Why a file cannot be read, by its index."""


def fingerprints(
    root: Path, paths: Sequence[Path], *, skip_unreadable: bool = False, progress: Progress = unseen
) -> Fingerprints:
    """Decode all files, or take what an earlier call found in files of the same name, length and times.

    Args:
        root: the folder of the data set, for which what is found is kept, in `$XDG_CACHE_HOME/heatserve`.
        paths: files in it.
        skip_unreadable: go on where a file cannot be read.
        progress: follows the decoding.

    Raises:
        DataError: a file cannot be read; names it.
    """
    records = np.zeros(len(paths), _RECORD)
    records["file"] = [_key(root, path) for path in paths]
    cache = _Cache(_cache_of(root))
    known = cache.fill(records)
    unreadable: dict[int, str] = {}
    new = np.flatnonzero(~known).tolist()
    with closing(_read_all([paths[index] for index in new])) as prints, cache.keeping(records, known):
        for index, one in zip(new, progress(prints, len(new), "look at pictures"), strict=True):
            if isinstance(one, DataError):
                if not skip_unreadable:
                    raise DataError(
                        f"{one}. To leave out all files that cannot be read, and have them counted: "
                        "--skip-unreadable (skip_unreadable=true in the name of the data set)"
                    )
                unreadable[index] = str(one)
                continue
            records[index] = (records["file"][index], *one)
            known[index] = True
            cache.keep_sometimes(records, known)
    sizes = np.stack([records["height"], records["width"]], axis=1)
    return Fingerprints(records["pixels"], records["outline"], records["colours"], sizes, unreadable)


def outline(picture: NDArray[np.uint8]) -> int:
    """Whether each of 8×8 grey pixels is darker than its right neighbour, as 64 bits; of uint8 [H, W, 3].

    It hardly changes where a picture is resized, compressed or brightened (dHash, N. Krawetz 2013).
    """
    image = Image.fromarray(picture).convert("L")
    grey = np.asarray(image.resize((9, 8), Image.Resampling.BILINEAR, reducing_gap=3.0))
    return int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes(), "big")


def _read_all(paths: Sequence[Path]) -> Generator[_Print | DataError]:
    """What is found in each file, in order, by threads: decoding releases Python's lock."""
    threads = len(os.sched_getaffinity(0))
    parts = iter([paths[start : start + _FILES_AT_A_TIME] for start in range(0, len(paths), _FILES_AT_A_TIME)])
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[list[_Print | DataError]]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(lambda part: [_read_one(path) for path in part], part))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_one(path: Path) -> _Print | DataError:
    try:
        picture = to_bytes(decode(path))
    except DataError as error:
        return error
    height, width, _ = picture.shape
    small = Image.fromarray(picture).resize((4, 4), Image.Resampling.BILINEAR, reducing_gap=3.0)
    digest = int(pixel_digest(picture.transpose(2, 0, 1)), 16)
    return digest, outline(picture), np.asarray(small).ravel(), height, width


def _key(root: Path, path: Path) -> int:
    """Changes when the file is renamed, rewritten or replaced, or when files are read otherwise.

    Archives and copies set the time of the last change (`st_mtime`) to what it was elsewhere; `st_ctime` nobody sets.
    """
    name = os.fsencode(path.relative_to(root))
    try:
        status = path.stat()
        times = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    except OSError:  # what is not there now is never taken for what was
        times = f"not there at {time.time_ns()}"
    stated = f"{_READER} {PIL.__version__} {times} ".encode()
    return int.from_bytes(hashlib.sha256(stated + name).digest()[:8], "little")


def _cache_of(root: Path) -> Path:
    """Where the records of a folder are kept: not in the folder, which is not ours."""
    caches = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(caches) if Path(caches).is_absolute() else Path.home() / ".cache"
    return folder / "heatserve" / "pictures" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.npy"


class _Cache:
    """A file of records, sorted by `file`; whatever is wrong with it, the pictures are decoded again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = self._written = time.monotonic()
        self._kept = np.zeros(0, _RECORD)
        with suppress(OSError, ValueError, EOFError, MemoryError):  # none yet, or a damaged one
            kept = np.load(path, allow_pickle=False)
            if kept.dtype == _RECORD and kept.ndim == 1:
                self._kept = np.sort(kept, order="file")

    def fill(self, records: _Records) -> NDArray[np.bool_]:
        """Complete the records of files that are kept; returns which ones, [N]."""
        if not len(self._kept):
            return np.zeros(len(records), bool)
        place = np.searchsorted(self._kept["file"], records["file"]).clip(max=len(self._kept) - 1)
        known: NDArray[np.bool_] = self._kept["file"][place] == records["file"]
        records[known] = self._kept[place[known]]
        return known

    @contextmanager
    def keeping(self, records: _Records, known: NDArray[np.bool_]) -> Iterator[None]:
        """Write what was found meanwhile, also after an interruption, where it took long enough to find."""
        try:
            yield
        finally:
            if time.monotonic() - self._begun >= _WORTH_KEEPING:
                self._write(records[known])

    def keep_sometimes(self, records: _Records, known: NDArray[np.bool_]) -> None:
        """Write what is known so far, once a minute."""
        if time.monotonic() - self._written >= _KEEP_EVERY:
            self._write(records[known])

    def _write(self, records: _Records) -> None:
        everything = np.concatenate([records, self._kept])
        _, first = np.unique(everything["file"], return_index=True)
        content = io.BytesIO()
        np.save(content, everything[first], allow_pickle=False)
        with suppress(OSError):  # where nothing can be written, the next start decodes again
            write_atomically(self._path, content.getvalue())
        self._written = time.monotonic()
