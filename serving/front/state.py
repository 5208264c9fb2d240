"""What the supervisor tells the front, a line of JSON each time that it changes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heatserve.serving.triton.server import TritonServer


@dataclass(frozen=True)
class FrontState:
    """What is behind the front.

    Attributes:
        ready: every model answers.
        reason: why not, for callers: no paths, and nothing that is of this machine.
        grpc: HOST:PORT of Triton's gRPC; empty: there is no Triton now, and requests wait for a moment.
        grpc_tls: where that is encrypted: the files of Triton's certificate and of ours (empty: it asks for none), and
            a name that is on Triton's.
        models: the names that may be asked for, tiers among them.
        metrics: HOST:PORT of Triton's own page of metrics; empty: none.
        cancels: what a caller gave up may be cancelled in Triton, which is new enough to survive it.
        is_draining: the server ends: each answer asks its caller to connect elsewhere.
    """

    ready: bool = False
    reason: str = "the server is starting"
    grpc: str = ""
    grpc_tls: tuple[str, str, str] | None = None
    models: tuple[str, ...] = ()
    metrics: str = ""
    cancels: bool = False
    is_draining: bool = False

    def line(self) -> bytes:
        """As a line."""
        return json.dumps(asdict(self)).encode() + b"\n"


def state_of(line: bytes) -> FrontState:
    """The state that a line tells."""
    said = json.loads(line)
    tls = said["grpc_tls"]
    return FrontState(**{**said, "models": tuple(said["models"]), "grpc_tls": None if tls is None else tuple(tls)})


def state_of_triton(triton: TritonServer) -> FrontState:
    """What is behind the front where a Triton answers."""
    from heatserve.serving.triton.versions import below_floor

    return FrontState(
        ready=True,
        reason="",
        grpc=triton.endpoints.grpc_url.partition("://")[2],
        grpc_tls=triton.grpc_tls.files() if triton.grpc_tls else None,
        models=triton.names,
        metrics=triton.endpoints.metrics_url.partition("://")[2].partition("/")[0],
        cancels=below_floor(triton.version) is None,
    )
