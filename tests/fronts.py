"""Fronts for tests: the real process, before a real Triton."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from heatserve import TritonServer
from heatserve.export.repository.tiers import served_tiers
from heatserve.serving.front.options import FrontOptions
from heatserve.serving.front.process import Front, FrontSockets
from heatserve.serving.front.state import FrontState
from heatserve.serving.observed.recorder import FOLDER_VARIABLE


@dataclass(frozen=True)
class RunningFront:
    """A front that accepts connections."""

    front: Front
    sockets: FrontSockets
    state: FrontState
    folder: Path
    """Of its metrics."""
    log: Path
    """Of what it failed at."""
    events: Path
    """Of its requests."""

    @property
    def port(self) -> int:
        """Where it takes requests."""
        return self.sockets.http_port

    @property
    def url(self) -> str:
        """Where it takes requests."""
        return f"http://127.0.0.1:{self.port}"


def state_of_triton(server: TritonServer) -> FrontState:
    """What a supervisor tells about a Triton that answers."""
    names = [(model.name, *(kind.beside(model.name) for kind in served_tiers(model))) for model in server.models]
    return FrontState(
        ready=True,
        reason="",
        grpc=server.endpoints.grpc_url.removeprefix("grpc://"),
        models=tuple(chain.from_iterable(names)),
        metrics=f"127.0.0.1:{server.endpoints.metrics}",
    )


@contextmanager
def front_before(
    state: FrontState, options: FrontOptions | None = None, *, environment: dict[str, str] | None = None
) -> Iterator[RunningFront]:
    """A front, told this state."""
    sockets = FrontSockets.bound("127.0.0.1", http=0, metrics=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "metrics").mkdir()
        with (folder / "log").open("wb") as log, (folder / "events").open("ab") as events:
            front = Front(
                options or FrontOptions(),
                sockets,
                folder=folder,
                log=log,
                events=events.fileno(),
                environment={**os.environ, **(environment or {}), FOLDER_VARIABLE: str(folder / "metrics")},
            )
            front.start(state)
            try:
                yield RunningFront(front, sockets, state, folder / "metrics", folder / "log", folder / "events")
            finally:
                front.kill()
                sockets.close()
