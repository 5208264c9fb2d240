"""The state of an unfinished training, in one file from which it goes on bit for bit."""

from __future__ import annotations

import fcntl
import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically


class StateError(HeatserveError):
    """A state file is damaged, or belongs to another training."""


@dataclass
class Position:
    """Where a training stands, apart from the tensors: what is done, and what has been measured."""

    epoch: int = 1
    """The epoch under way, from 1."""
    step_in_epoch: int = 0
    """Steps of this epoch that are done."""
    global_step: int = 0
    """Steps of all epochs that are done."""
    images: int = 0
    seconds: float = 0.0
    """Images and seconds of this epoch."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the terms over the images of this epoch."""
    running_loss: float = 0.0
    worst_loss: float = 0.0
    """Running mean of the loss, and the largest of the first steps."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Metrics of the epochs that are done."""

    def begin_next_epoch(self) -> None:
        """Nothing of the next epoch is done yet."""
        self.epoch += 1
        self.step_in_epoch, self.images, self.seconds, self.sums = 0, 0, 0.0, {}


_NAMES_IN_FILE = {"step_in_epoch": "step", "global_step": "steps"}
"""Fields of a Position that a state file calls otherwise: states that were written long ago must still be read."""


def state_path(checkpoint: Path) -> Path:
    """Where the state of an unfinished training is, beside its checkpoint."""
    return beside(checkpoint, ".state")


def lock_path(checkpoint: Path) -> Path:
    """What the training of a checkpoint holds while it runs."""
    return beside(checkpoint, ".lock")


def beside(checkpoint: Path, suffix: str) -> Path:
    """A file beside a checkpoint: of `net.safetensors` with another suffix, of `lr0.1` with one after its name."""
    is_usual = checkpoint.suffix == ".safetensors"
    return checkpoint.with_suffix(suffix) if is_usual else checkpoint.with_name(checkpoint.name + suffix)


@contextmanager
def only_training_of(checkpoint: Path | None) -> Iterator[None]:
    """Hold the name of a checkpoint for one training, until it ends: two would write over each other.

    Its lock lies beside it while the training runs, and is no more than a leftover after a kill.

    Raises:
        StateError: another training holds it.
    """
    if checkpoint is None:
        yield
        return
    path = lock_path(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _locked(path, checkpoint)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _locked(path: Path, checkpoint: Path) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
                return lock  # else the training that held it has removed it since it was opened
        except BlockingIOError:
            os.close(lock)
            raise StateError(
                f"{checkpoint}: expected one training with this --out, found that another one is running; wait for it, "
                "or give another --out"
            ) from None
        except OSError:  # a file system without locks
            return lock
        os.close(lock)


def write_state(path: Path, recipe: str, position: Position, tensors: dict[str, Any]) -> None:
    """Write everything atomically. `recipe` is a text that decides the training; `tensors` nested state dicts."""
    content = io.BytesIO()
    torch.save({"recipe": recipe, "position": _to_file(position), "tensors": tensors}, content)
    write_atomically(path, content.getvalue())


def read_state(path: Path, recipe: str) -> tuple[Position, dict[str, Any]]:
    """Read what `write_state` wrote, without running any code from the file.

    Raises:
        StateError: damaged, or written by a training with another recipe; says which.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        wrote, position, tensors = found["recipe"], _from_file(found["position"]), found["tensors"]
    except OSError as error:
        reason = error.strerror or error
        raise StateError(f"{path}: expected the state of a training, but it cannot be read: {reason}") from None
    except (RuntimeError, pickle.UnpicklingError, LookupError, TypeError, ValueError, EOFError):
        raise StateError(
            f"{path}: expected the state of a training, but it cannot be read: it is damaged, or of another "
            "version; start afresh without --resume"
        ) from None
    if wrote != recipe:
        raise StateError(
            f"{path}: belongs to another training; give the options that it was started with, or start afresh "
            f"without --resume. Expected {recipe}, found {wrote}"
        )
    return position, tensors


def _to_file(position: Position) -> dict[str, Any]:
    return {_NAMES_IN_FILE.get(name, name): value for name, value in vars(position).items()}


def _from_file(values: dict[str, Any]) -> Position:
    names = {in_file: name for name, in_file in _NAMES_IN_FILE.items()}
    return Position(**{names.get(name, name): value for name, value in values.items()})
