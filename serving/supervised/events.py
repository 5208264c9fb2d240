"""What a server tells of itself: what failed and is started again, what is up again, and what its audit found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from heatserve.serving.shadow.folder import Alarm

Kept = Literal["triton", "front"]
"""What a `Server` starts again. A voter is started again by the `Voters` of its Triton."""

Cause = Literal["start", "ended", "unhealthy"]
"""Its start failed; it ended by itself; it was ended since it, or a model of it, did not answer any more."""


@dataclass(frozen=True)
class Restart:
    """Something failed, and is started again."""

    process: Kept
    cause: Cause
    problem: str
    """What was expected and found."""
    pause: float
    """Seconds until the next start."""

    @property
    def described(self) -> str:
        """In words for the operator."""
        return f"{self.problem}\n{self.process}: it is started again in {self.pause:g} s"


@dataclass(frozen=True)
class Recovery:
    """Something that had failed is up again."""

    process: Kept
    seconds: float
    """From the moment at which its failure was noticed."""

    @property
    def described(self) -> str:
        """In words for the operator."""
        return f"{self.process}: it answers again, {self.seconds:.1f} s after its failure was noticed"


Event = Restart | Recovery | Alarm
