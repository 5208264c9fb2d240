"""What a training writes down as it goes: JSON lines beside the checkpoint, and TensorBoard where asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from heatserve.certification.files import write_atomically
from heatserve.training.loop.state import beside

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


def log_path(checkpoint: Path) -> Path:
    """Where the log of a training is, beside its checkpoint."""
    return beside(checkpoint, ".jsonl")


def read_epochs(checkpoint: Path) -> list[dict[str, Any]]:
    """The records of the epochs in the log beside a checkpoint; none where no log was kept."""
    log = log_path(checkpoint)
    records = (json.loads(line) for line in _lines(log) if math.isfinite(_global_step(line)))
    return [record for record in records if record.get("kind") == "epoch"]


class Log:
    """Writes one record every few steps and one an epoch; a resumed training continues it without repetition."""

    def __init__(self, path: Path | None, tensorboard: Path | None, *, global_step: int) -> None:
        """Open the log.

        Args:
            path: the file of the JSON lines; None writes none.
            tensorboard: folder of TensorBoard's event files; None writes none.
            global_step: how many steps are done; records of later ones, from a run that was killed, are dropped.
        """
        self._lines = None
        if path is not None:
            kept = [line for line in _lines(path) if _global_step(line) <= global_step] if global_step else []
            write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
            self._lines = path.open("a", buffering=1)
        self._board = _summary_writer(tensorboard, global_step) if tensorboard is not None else None

    def __enter__(self) -> Log:
        """The log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the files."""
        if self._lines is not None:
            self._lines.close()
        if self._board is not None:
            self._board.close()  # type: ignore[no-untyped-call]

    def write(self, kind: str, *, global_step: int, **values: Any) -> None:
        """One record: `kind` is "step" or "epoch", `global_step` how many steps are done; in the file it is `steps`."""
        if self._lines is not None:
            self._lines.write(json.dumps({"kind": kind, "steps": global_step, **values}) + "\n")
        if self._board is not None:
            for name, value in _numbers(values):
                self._board.add_scalar(f"{kind}/{name}", value, global_step)  # type: ignore[no-untyped-call]


def _lines(path: Path) -> list[str]:
    """The lines of a log, of which a crash may have left one that is no text; none where there is no log."""
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _global_step(line: str) -> float:
    """How many steps were done when a record was written; infinite for a line that a crash has left unfinished."""
    try:
        return float(json.loads(line)["steps"])
    except (ValueError, LookupError, TypeError):
        return math.inf


def _numbers(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in values.items() if isinstance(value, int | float)]


def _summary_writer(folder: Path, global_step: int) -> SummaryWriter:
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder), purge_step=global_step + 1 if global_step else None)  # type: ignore[no-untyped-call]
