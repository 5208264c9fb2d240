"""Fronts for tests: the real process, before a real Triton."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from heatserve.serving.front.options import FrontOptions
from heatserve.serving.front.process import Front, FrontSockets
from heatserve.serving.front.state import FrontState
from heatserve.serving.observed.recorder import FOLDER_VARIABLE

PATIENCE_SECONDS = 60.0
"""After which a test gives up what is to happen at once: a busy machine takes its time."""

IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}
BODY = json.dumps({"inputs": [IMAGE]}).encode()
"""A request for one image of `write_tiny_model`."""


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


@contextmanager
def front_before(
    state: FrontState,
    options: FrontOptions | None = None,
    *,
    environment: dict[str, str] | None = None,
    metrics: Path | None = None,
) -> Iterator[RunningFront]:
    """A front, told this state; it counts in a folder of its own, unless that of a server is given."""
    sockets = FrontSockets.bound("127.0.0.1", http=0, metrics=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics = metrics or folder / "metrics"
        metrics.mkdir(exist_ok=True)
        with (folder / "log").open("wb") as log, (folder / "events").open("ab") as events:
            front = Front(
                options or FrontOptions(),
                sockets,
                folder=folder,
                log=log,
                events=events.fileno(),
                environment={**os.environ, **(environment or {}), FOLDER_VARIABLE: str(metrics)},
            )
            front.start(state)
            try:
                yield RunningFront(front, sockets, state, metrics, folder / "log", folder / "events")
            finally:
                front.kill()
                sockets.close()


def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def raw_answer(port: int, request: bytes, *, seconds: float = PATIENCE_SECONDS) -> bytes:
    """All that a server sends on one connection after these bytes, until it closes it or says nothing for a time."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        with suppress(OSError):  # it may have answered and closed before all was sent
            connection.sendall(request)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """What comes on a connection until it is closed, or until its timeout."""
    received = b""
    with suppress(OSError):
        while part := connection.recv(2**16):
            received += part
    return received


def post(path: str, body: bytes, *headers: str, version: str = "1.1", close: bool = True) -> bytes:
    """The bytes of a POST."""
    lines = [f"POST {path} HTTP/{version}", "Host: front", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, *(["Connection: close"] if close else []), "", ""]).encode() + body


def status_of(answer: bytes) -> int:
    """The status of the first answer in these bytes; 0: there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def error_of(answer: bytes) -> str:
    """The error in the JSON of the first answer in these bytes."""
    return str(json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"])
