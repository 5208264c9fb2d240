"""The answer to a yes-or-no question about a radius, and why it was given.

Needs the standard library only: a client reads it, too.
"""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """Is the radius at least r? True as a condition only where it is YES."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"

    def __bool__(self) -> bool:
        return self is Outcome.YES


class Ending(Enum):
    """Why `confirm` stopped."""

    PROVEN = "proven"
    """The votes prove it: YES."""
    DISPROVEN = "disproven"
    """The votes prove that this class is not certified at the radius: NO."""
    HOPELESS = "hopeless"
    """Given up: the votes so far leave too little chance of a proof, or there is no class to prove."""
    VOTES = "votes"
    """Not decided by as many votes as were allowed."""

    @property
    def outcome(self) -> Outcome:
        """Is the class proven within the radius?"""
        return {Ending.PROVEN: Outcome.YES, Ending.DISPROVEN: Outcome.NO}.get(self, Outcome.UNDECIDED)
