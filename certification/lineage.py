"""What a network came through: the trainings before its own, by which one knows which images it has seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

IMPORTED = "imported"
"""The method of a network whose weights were trained elsewhere."""
UNKNOWN = "unknown"
"""The method of a network of which nothing is recorded but its hash."""


@dataclass(frozen=True)
class Ancestor:
    """A network that another came from, or the last of such a line."""

    method: str
    """The method that trained it, `IMPORTED` or `UNKNOWN`."""
    dataset: str | None
    """Name of the data set whose `train` split it was trained on; of an imported one, the data set that the user named.
    None: not known."""
    epochs: int | None
    """Epochs of its own training; None: not known."""
    sha256: str
    """SHA-256 of its checkpoint file; of an unknown one, what its descendant says, or else of its graph."""
    pixels_sha256: str | None = None
    """SHA-256 of the pixels of the `train` split that it was trained on, where that is cut from a folder of pictures,
    which may change. None: from a data set that does not, or not recorded, as formerly."""

    def __post_init__(self) -> None:
        for name, digits in (("sha256", self.sha256), ("pixels_sha256", self.pixels_sha256)):
            if digits is not None and not re.fullmatch("[0-9a-f]{64}", digits):
                raise ValueError(f"{name}: expected 64 hex digits, got {digits!r}")
        if self.epochs is not None and self.epochs < 0:
            raise ValueError(f"epochs: expected a number from 0, got {self.epochs}")

    @property
    def recorded(self) -> bool:
        """Whether it is known which images trained it: a training of heatserve sees the `train` split only."""
        return self.method not in (IMPORTED, UNKNOWN)

    @property
    def described(self) -> str:
        """The network, for a sentence."""
        return f"{self.sha256[:12]} ({self.method}{f', {self.dataset}' if self.dataset else ''})"


def line_of(ancestors: Sequence[Ancestor] | None, own: Ancestor, parent_sha256: str | None) -> tuple[Ancestor, ...]:
    """The ancestors of a network and itself, the oldest first.

    Args:
        ancestors: what was recorded of them; None: nothing was. Then there is an unknown one, if there was a parent.
        own: the network itself.
        parent_sha256: SHA-256 of the file that its training started from; None: it had no parent.
    """
    if ancestors is not None:
        return *ancestors, own
    if parent_sha256 is None or own.method == IMPORTED:  # the parent of an imported network is its file of tensors
        return (own,)
    return Ancestor(UNKNOWN, None, None, parent_sha256), own


def epochs_in_all(line: Sequence[Ancestor]) -> int | None:
    """The epochs of all trainings in a line; None where those of one are not known."""
    known = [ancestor.epochs for ancestor in line if ancestor.epochs is not None]
    return sum(known) if len(known) == len(line) else None
