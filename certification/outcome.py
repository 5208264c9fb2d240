"""The answer to a yes-or-no question about a radius. Needs the standard library only: a client reads it, too."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """Is the radius at least r? True as a condition only where it is YES."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"

    def __bool__(self) -> bool:
        return self is Outcome.YES
