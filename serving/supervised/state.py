"""What a server that is kept up tells: whether it answers, and what was started again and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kept = Literal["triton", "front"]
"""What a `Server` starts again. A voter is started again by the `Voters` of its Triton."""

Cause = Literal["start", "ended", "unhealthy"]
"""Its start failed; it ended by itself; it was ended since it, or a model of it, did not answer any more."""


@dataclass(frozen=True)
class State:
    """Whether requests are answered now, and by whom."""

    is_ready: bool
    """Whether every model answers, as far as the last look tells, and the server is not about to end."""
    reason: str
    """Why not, in words for anybody; empty where it is ready."""
    grpc: str = ""
    """HOST:PORT of Triton's gRPC, for this machine."""
    metrics: str = ""
    """The URL of Triton's own metrics, for this machine."""
    models: tuple[str, ...] = ()
    """The models that are served, without their tiers."""


IS_STARTING = State(False, "the server starts")
IS_RESTARTING = State(False, "a model did not answer, and the server starts again")
IS_ENDING = State(False, "the server is about to end")


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


Event = Restart | Recovery
