"""The front as a child process, whose sockets are its parent's: while it is started again, callers wait in line."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from heatserve.serving.errors import CrashedError, ServingError
from heatserve.serving.front.options import FrontOptions
from heatserve.serving.front.state import FrontState
from heatserve.serving.triton import guarded_exec
from heatserve.serving.triton.endpoints import bind_port
from heatserve.serving.triton.options import START_SECONDS
from heatserve.serving.triton.processes import ending

BACKLOG = 1024
"""Connections that wait until they are accepted, on each socket."""

_LAST_SECONDS = 1.0
_EXIT_SECONDS = 15.0  # more than it gives requests in flight
_FRONT = """\
import sys

sys.path[:] = {path!a} + [folder for folder in sys.path if folder]

from heatserve.serving.front.main import main

main(sys.argv[1:])
"""


@dataclass(frozen=True)
class FrontSockets:
    """The sockets on which a front listens, open from before it starts until the server ends."""

    http: Sequence[socket.socket]
    metrics: Sequence[socket.socket] = ()

    @classmethod
    def bound(cls, host: str, *, http: int, metrics: int | None = None) -> FrontSockets:
        """Sockets at these ports; 0 takes a free one.

        Args:
            host: an IPv4 address of this machine, or 0.0.0.0 for all of them.
            http: for requests.
            metrics: for those who read metrics; None: none.

        Raises:
            ServingError: a port that is taken or forbidden. Names its option.
        """
        with ExitStack() as opened:
            found = []
            for name, port in (("http", http), ("metrics", metrics)):
                if port is None:
                    continue
                listening = opened.enter_context(socket.socket())
                bind_port(listening, host, port, f"--{name}-port")
                listening.listen(BACKLOG)
                found.append(listening)
            opened.pop_all()
        return cls(found[:1], found[1:])

    @property
    def http_port(self) -> int:
        """Where requests are taken."""
        return int(self.http[0].getsockname()[1])

    @property
    def metrics_port(self) -> int:
        """Where metrics are read."""
        return int(self.metrics[0].getsockname()[1])

    def close(self) -> None:
        """Refuse who waits and who comes."""
        for listening in (*self.http, *self.metrics):
            listening.close()


class Front:
    """One life of the front's process; a new `Front` on the same sockets goes on where one ended."""

    def __init__(
        self,
        options: FrontOptions,
        sockets: FrontSockets,
        *,
        folder: Path,
        log: BinaryIO,
        events: int | None = None,
        environment: dict[str, str] | None = None,
        modules: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Describe it; `start` starts it.

        Args:
            options: of the operator.
            sockets: on which it listens.
            folder: the server's, for this user only: its current one.
            log: what it says of its own failures goes here.
            events: a descriptor for a line of JSON a request (`observed.logs`); None: none.
            environment: of the process; it names the folder of metrics. None: this process's.
            modules: where its Python looks for modules; none: where this one does.
            pass_fds: what it inherits besides.
        """
        self._options = options
        self._sockets = sockets
        self._folder = folder
        self._log = log
        self._events = events
        self._environment = environment
        self._code = _FRONT.format(path=[os.path.abspath(path) for path in modules or sys.path if path])
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[bytes] | None = None
        self._up, self._heard = -1, 0.0

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def start(self, state: FrontState | None = None) -> None:
        """Start it, and wait until it accepts connections.

        Args:
            state: what it is told first; None: that the server is starting.

        Raises:
            CrashedError: it was ended by a signal.
            ServingError: it did not start.
        """
        self._options.check()
        self._up, up = os.pipe()
        try:
            self._process = self._spawn(up)
        except OSError as error:  # no process is left, or the server's folder was removed
            os.close(self._up)
            self._up = -1
            raise ServingError(f"front: it cannot be started: {error.strerror}: {error.filename}") from None
        finally:
            os.close(up)
        self.tell(state or FrontState())
        end = time.monotonic() + START_SECONDS
        try:
            while not select.select([self._up], [], [], 0.05)[0]:
                if self._process.poll() is not None or time.monotonic() > end:
                    break
            said = os.read(self._up, 4096) if select.select([self._up], [], [], 0)[0] else b""
        except BaseException:  # a Ctrl-C
            self.kill()
            raise
        self._heard = time.monotonic()
        if not said.startswith(b"1"):
            self.wait(_LAST_SECONDS)  # it has closed its end, and is about to end
            how, code = self.ending(), self._process.poll()
            self.kill()
            kind = CrashedError if code is not None and code < 0 else ServingError
            why = f": {said.decode(errors='replace')}" if said else ""
            raise kind(f"front: expected a process that accepts connections, found that it {how}{why}")

    def silent_seconds(self) -> float:
        """How long ago it said that it lives, which it does every second."""
        while select.select([self._up], [], [], 0)[0] and os.read(self._up, 4096):
            self._heard = time.monotonic()
        return time.monotonic() - self._heard

    def tell(self, state: FrontState) -> None:
        """Tell it what is behind it now; one that has ended hears nothing."""
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # of a pipe that is broken, or closed
            self._process.stdin.write(state.line())
            self._process.stdin.flush()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it ends, at most for these seconds; whether it did."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ending(self) -> str:
        """How it ended, as part of a sentence: `was ended by SIGKILL (…)`."""
        code = self._process.poll() if self._process is not None else None
        if code is None:
            return "does not answer"
        return ending(-code if code < 0 else code << 8)

    def drain(self) -> None:
        """Have it accept no more, answer what is in flight, and end; at most 15 s later it has ended."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        self.wait(_EXIT_SECONDS)
        self.kill()

    def hurry(self) -> None:
        """From any thread: do not wait for what is in flight."""
        if self._process is not None:
            self._process.kill()

    def kill(self) -> None:
        """End it at once, and let go of it."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._up >= 0:
            os.close(self._up)
            self._up = -1
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def _spawn(self, up: int) -> subprocess.Popen[bytes]:
        http, metrics = (
            [listening.fileno() for listening in sockets] for sockets in (self._sockets.http, self._sockets.metrics)
        )
        events = -1 if self._events is None else self._events
        arguments = [
            self._options.as_json(),
            str(up),
            str(events),
            ",".join(map(str, http)),
            ",".join(map(str, metrics)),
        ]
        return subprocess.Popen(
            [
                *(sys.executable, "-IS", guarded_exec.__file__, str(os.getpid()), str(int(signal.SIGTERM)), "0"),
                *(sys.executable, "-I", "-c", self._code, *arguments),
            ],
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[*http, *metrics, up, *([] if events < 0 else [events]), *self._pass_fds],
            start_new_session=True,
        )
