"""The state of an unfinished training, in one file from which it goes on bit for bit."""

from __future__ import annotations

import io
import pickle
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
    step: int = 0
    """Steps of this epoch that are done."""
    steps: int = 0
    """Steps that are done in all."""
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


def write_state(path: Path, recipe: str, position: Position, tensors: dict[str, Any]) -> None:
    """Write everything atomically. `recipe` is a text that decides the training; `tensors` nested state dicts."""
    content = io.BytesIO()
    torch.save({"recipe": recipe, "position": vars(position), "tensors": tensors}, content)
    write_atomically(path, content.getvalue())


def read_state(path: Path, recipe: str) -> tuple[Position, dict[str, Any]]:
    """Read what `write_state` wrote, without running any code from the file.

    Raises:
        StateError: damaged, or written by a training with another recipe; says which.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        wrote, position, tensors = found["recipe"], Position(**found["position"]), found["tensors"]
    except (OSError, RuntimeError, pickle.UnpicklingError, LookupError, TypeError, ValueError, EOFError) as error:
        raise StateError(f"{path}: expected the state of a training, but it cannot be read: {error}") from None
    if wrote != recipe:
        raise StateError(
            f"{path}: belongs to another training; give the options that it was started with, or start afresh "
            f"without --resume. Expected {recipe}, found {wrote}"
        )
    return position, tensors
