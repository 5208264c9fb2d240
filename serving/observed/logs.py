"""A log of JSON lines, one an event, that front and supervisor share: bounded, and it holds nobody up.

    {"time": "2026-01-31T12:00:00.123Z", "process": "front", "event": "request", "level": "info", "request_id": …}

Fields are numbers, truth values and short text. Arrays and bytes are refused, so that no pixel of a request can get in.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, Literal

import orjson

from heatserve.certification.errors import HeatserveError
from heatserve.serving.observed.families import LOG_DROPPED
from heatserve.serving.observed.recorder import Recorder

Level = Literal["info", "warning", "error"]
Field = str | int | float | bool | None

LINE_BYTES = 4096
"""The most bytes of one line, which a pipe takes at once from several processes (PIPE_BUF of Linux)."""
LOG_FILE_BYTES = 64 * 2**20
"""The size at which a file of the log is set aside, as NAME.1, and a new one is begun."""

_INT64 = 2**63
_TEXT = 500  # characters of one field
_WAITING = 10_000  # lines that nobody has taken
_CHUNK_BYTES = 2**16
_GATHER_SECONDS = 0.01  # a thread that woke for every line would take the interpreter from the next request
_SETTLE_SECONDS = 2.0
_PAUSE_SECONDS = 0.2  # on a disk without room


class EventLog:
    """The log of one process, for any number of threads."""

    def __init__(self, file: int, *, process: str, recorder: Recorder | None = None) -> None:
        """Write lines to a descriptor, from a thread of its own.

        Args:
            file: where lines go; it stays open, and is the caller's.
            process: what writes: front or supervisor.
            recorder: counts the lines that nobody took in time.
        """
        self._file = file
        self._process = process
        self._recorder = recorder or Recorder()
        self._recorder.add(LOG_DROPPED, process, by=0)
        self._lines = queue.Queue[bytes | None](_WAITING)
        self._thread = threading.Thread(target=self._write, name="heatserve-log", daemon=True)
        self._thread.start()

    def event(self, event: str, *, level: Level = "info", **fields: Field) -> None:
        """Log one event, at once and without waiting; where too many lines wait, it is dropped and counted.

        Raises:
            TypeError: a field is no number, truth value or text.
        """
        line = json_line(event, process=self._process, level=level, **fields)
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._recorder.add(LOG_DROPPED, self._process)

    def close(self) -> None:
        """Write what waits, for up to two seconds, and end."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=_SETTLE_SECONDS)
        self._thread.join(_SETTLE_SECONDS)

    def _write(self) -> None:
        """Lines that came within a moment go out together, in pieces of whole lines."""
        while (line := self._lines.get()) is not None:
            time.sleep(_GATHER_SECONDS)
            piece = line
            with suppress(queue.Empty):
                while len(piece) < LINE_BYTES and (line := self._lines.get_nowait()) is not None:
                    if len(piece) + len(line) > LINE_BYTES:
                        self._put(piece)
                        piece = line
                    else:
                        piece += line
            self._put(piece)
            if line is None:
                return

    def _put(self, piece: bytes) -> None:
        try:
            while piece:
                piece = piece[os.write(self._file, piece) :]
        except OSError:  # no room, or nobody reads any more
            self._recorder.add(LOG_DROPPED, self._process, by=piece.count(b"\n"))


def json_line(event: str, *, process: str, level: Level = "info", **fields: Field) -> bytes:
    """One line of the log, of at most `LINE_BYTES`; longer text is cut, and then left out.

    Raises:
        TypeError: a field is no number, truth value or text.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").removesuffix("+00:00")
    known = {"time": f"{now}Z", "process": process, "event": event, "level": level}
    for name, value in fields.items():
        if not isinstance(value, str | int | float | bool | None):
            raise TypeError(f"{name}: expected a number, a truth value or text in a log, got {type(value).__name__}")
    for longest in (_TEXT, _TEXT // 10, 0):
        said = {name: _short(value, longest) for name, value in fields.items()} if longest else {}
        line = orjson.dumps(known | said, option=orjson.OPT_APPEND_NEWLINE)
        if len(line) <= LINE_BYTES:
            break
    return line


def _short(value: Field, longest: int) -> Field:
    """Numbers that JSON or its readers have not are text; text is ASCII, which does nothing to a terminal."""
    if isinstance(value, str):
        cut = value if len(value) <= longest else f"{value[:longest]}..."
        return cut if cut.isascii() else cut.encode("ascii", "backslashreplace").decode()
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    return value if value is None or -_INT64 <= value < _INT64 else str(value)


@contextmanager
def log_destination(where: str) -> Iterator[int]:
    """A descriptor that processes of a server write the lines of its log to.

    Args:
        where: `-`: the standard output; else a file, which others than this user cannot read, and which is set aside
            as NAME.1 when it has grown to `LOG_FILE_BYTES`.

    Raises:
        HeatserveError: the file cannot be written.
    """
    if where == "-":
        file = os.dup(sys.stdout.fileno())
        try:
            yield file
        finally:
            os.close(file)
        return
    try:
        target = _RotatedFile(Path(where))
    except OSError as error:
        raise HeatserveError(f"--log {where}: expected a file to write to, or -, found: {error.strerror}") from None
    reading, writing = os.pipe()
    thread = threading.Thread(target=_collect, args=(reading, target), name="heatserve-log-file", daemon=True)
    thread.start()
    try:
        yield writing
    finally:
        os.close(writing)
        thread.join(_SETTLE_SECONDS)


class _RotatedFile:
    """A file that lines are appended to, and the one before it: twice `LOG_FILE_BYTES` at most.

    Where it cannot be set aside, it is begun anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()

    def append(self, lines: bytes) -> None:
        """Append whole lines, once there is room: others wait meanwhile, until processes drop and count them."""
        while lines:
            try:
                self._make_room(len(lines))
                lines = lines[self._file.write(lines) :]
            except OSError:
                time.sleep(_PAUSE_SECONDS)

    def _make_room(self, size: int) -> None:
        if self._file.tell() + size <= LOG_FILE_BYTES:
            return
        try:
            with suppress(FileNotFoundError):
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except OSError:  # its folder is not ours, or something else has that name: the newest lines are worth more
            self._file.truncate(0)
            self._file.seek(0)
        else:
            former, self._file = self._file, self._open()
            former.close()

    def close(self) -> None:
        self._file.close()

    def _open(self) -> BinaryIO:
        file = open(self._path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
        file.seek(0, os.SEEK_END)
        return file


def _collect(reading: int, target: _RotatedFile) -> None:
    rest = b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while chunk := pipe.read(_CHUNK_BYTES):
            lines, end, rest = (rest + chunk).rpartition(b"\n")
            target.append(lines + end)
    target.close()
