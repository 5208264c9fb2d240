"""The GPU, the time that a command may take, and its files: what all parts share."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from heatserve.benchmarks.records.record import Record, RecordError, made_now
from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import read_text, write_atomically
from heatserve.training.typed_json import TypedJsonError, parse_dataclass

R = TypeVar("R", bound=Record)


class TimeUp(Exception):
    """The command has used its time; the same one goes on where it stopped."""


@dataclass(frozen=True)
class GpuMachine:
    """Where and for how long.

    Args:
        device: "cuda", "cuda:1", or "cpu", to try the commands out.
        ends: `time.monotonic()` at which a command stops.
    """

    device: str
    ends: float

    def __post_init__(self) -> None:
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise HeatserveError(
                f"device: expected a device of this machine, got {self.device!r}: {reason}; --device cpu tries the "
                "commands out"
            ) from None
        index = torch.device(self.device).index
        if self.on_gpu and index is not None:  # CUDA graphs are recorded on the current device
            torch.cuda.set_device(index)

    @property
    def on_gpu(self) -> bool:
        """Whether it has CUDA graphs, counts its memory, and works behind the program's back."""
        return torch.device(self.device).type == "cuda"

    @property
    def name(self) -> str | None:
        """What the GPU is called; None: there is none."""
        return torch.cuda.get_device_name(self.device) if self.on_gpu else None

    def wait(self) -> None:
        """Return when all that was started is done."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def check_time(self) -> None:
        """Raise `TimeUp` where the time is used."""
        if time.monotonic() >= self.ends:
            raise TimeUp

    @contextmanager
    def stopping(self, *, grace: float = 0.0) -> Iterator[None]:
        """While this is open, SIGTERM comes when the time is used: a training writes its state and ends.

        Where nobody waits for that signal, it raises `TimeUp`.

        Args:
            grace: seconds after the end.
        """
        left = max(0.0, self.ends + grace - time.monotonic())
        timer = threading.Timer(left, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        before = signal.signal(signal.SIGTERM, _time_is_up)  # while images are read, for example
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            signal.signal(signal.SIGTERM, before)


def _time_is_up(_signal: int, _frame: object) -> None:
    raise TimeUp


def kept_or(empty: R, path: Path) -> R:
    """What a file holds that an earlier call wrote with the same settings, or else the empty record.

    Settings are all that a record says but when, how and under what load it was made, and its results, a field that is
    a tuple or a dictionary.

    Raises:
        RecordError: the file holds something else.
        HeatserveError: it cannot be read.
    """
    if not path.exists():
        return empty
    try:
        kept = parse_dataclass(read_text(path, f"a {type(empty).__name__}"), type(empty))
    except TypedJsonError as error:
        raise RecordError(f"{path}: expected a {type(empty).__name__}, got {error}; name another folder") from None
    return kept if _settings(kept) == _settings(empty) else empty


def write_plain(path: Path, record: Record) -> None:
    """Write a record of plain dataclasses, atomically, as `write_record` would."""
    write_atomically(path, (json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n").encode())


def made_here(seed: int) -> Record:
    """As `made_now`, with the command as it was typed and the version of CUDA."""
    found = made_now("torchvision", "scipy", "safetensors", seed=seed)
    command = found.command.replace("heatserve", "python -m heatserve.benchmarks.gpu", 1)
    cuda = {"cuda": str(torch.version.cuda)} if torch.version.cuda else {}
    return replace(found, command=command, versions={**found.versions, **cuda})


def _settings(record: Record) -> dict[str, object]:
    made = {"command", "date"}
    machine = replace(record.machine, load_average=None)
    others = {name: value for name, value in vars(record).items() if not isinstance(value, tuple | dict)}
    others["versions"] = dict(record.versions)
    return {name: value for name, value in (others | {"machine": machine}).items() if name not in made}
