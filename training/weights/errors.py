"""What is wrong with a file of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from heatserve.training.checkpoint import CheckpointError
from heatserve.training.weights.matching import Match


class MismatchError(CheckpointError):
    """A file's tensors are not those of the architecture; `match` says which, `nearest` whose they may be."""

    def __init__(
        self, path: Path, architecture: str, match: Match, nearest: Sequence[str], classes: int, named: str | None
    ) -> None:
        self.match = match
        self.nearest = tuple(nearest)
        super().__init__(
            f"{path}: its tensors are not those of {architecture}: {_summary(match, classes)}"
            + "".join(f"; {line}" for line in nearest)
            + (f"; the file calls its architecture {named!r}" if named else "")
        )


def _summary(match: Match, classes: int) -> str:
    """The first tensor of each kind of misfit, and how many there are."""
    missing = [misfit for misfit in match.misfits if misfit.found is None]
    unexpected = [misfit for misfit in match.misfits if misfit.expected is None]
    reshaped = [misfit for misfit in match.misfits if misfit.expected is not None and misfit.found is not None]
    if len(reshaped) == len(match.misfits) and (outputs := outputs_of(match, classes)):
        return f"it answers {outputs} classes, and the images have {classes}"
    parts = [f"tensor {missing[0].name!r} is missing"] if missing else []
    parts += [f"tensor {unexpected[0].name!r} is unexpected"] if unexpected else []
    parts += [
        f"expected tensor {misfit.name!r} of shape {list(misfit.expected or ())}, got {list(misfit.found or ())}"
        for misfit in reshaped[:1]
    ]
    counts = f"{len(missing)} missing, {len(unexpected)} unexpected, {len(reshaped)} of another shape"
    return f"{', '.join(parts)} ({counts})"


def outputs_of(match: Match, classes: int) -> int | None:
    """How many classes the file's network answers, where its shapes differ from the architecture's in that alone."""
    found = set()
    for misfit in match.misfits:
        if misfit.expected is None or misfit.found is None or misfit.expected[1:] != misfit.found[1:]:
            return None
        if misfit.expected[:1] != (classes,):
            return None
        found.add(misfit.found[0])
    return found.pop() if len(found) == 1 else None
