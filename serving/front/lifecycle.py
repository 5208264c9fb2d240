"""The process of the front: it listens on sockets that it inherits, hears of the server, and ends with its answers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from heatserve.serving.errors import ServingError
from heatserve.serving.front import limits
from heatserve.serving.front.app import FrontApp
from heatserve.serving.front.connections import CallerConnection
from heatserve.serving.front.counted import PassedCounts
from heatserve.serving.front.handshakes import TlsListener
from heatserve.serving.front.metrics_page import MetricsApp
from heatserve.serving.front.options import FrontOptions
from heatserve.serving.front.served import Served
from heatserve.serving.front.state import state_of
from heatserve.serving.front.tokens import Tokens
from heatserve.serving.observed.families import FRONT_CONNECTIONS
from heatserve.serving.observed.logs import EventLog
from heatserve.serving.observed.recorder import FOLDER_VARIABLE, Recorder

EXIT_SECONDS = 10.0
"""The time that requests in flight are given at the end."""

_LOOK_SECONDS = 1.0
_LAST_SECONDS = 0.1  # for connections that the system has made already
_LONGEST_LINE = 2**20
_METRICS_CONNECTIONS = 64


class FrontServer:
    """The listeners of one process, and all connections that they accepted."""

    def __init__(self, options: FrontOptions, recorder: Recorder, log: EventLog | None) -> None:
        """Describe it.

        Raises:
            ServingError: a file that the options name cannot be used.
        """
        self.served = Served()
        self._options = options
        self._recorder = recorder
        self._tls = options.tls_context()
        tokens = Tokens(options.token_file) if options.token_file else None
        rates = limits.Rates(options.rate) if options.rate else None
        named = os.environ.get(FOLDER_VARIABLE)
        folder = Path(named) if named else None
        passed = PassedCounts(recorder, folder)
        self._app = FrontApp(self.served, tokens=tokens, rates=rates, recorder=recorder, log=log, passed=passed)
        self._metrics = MetricsApp(self.served, folder=folder, tokens=tokens, recorder=recorder)
        self._gate = limits.Gate(options.max_connections)
        self._states = list[ServerState]()
        self._listeners = list[asyncio.Server | TlsListener]()

    async def listen(self, http: Sequence[socket.socket], metrics: Sequence[socket.socket]) -> None:
        """Accept connections on sockets that listen already."""
        for app, sockets, gate in (
            (self._app, http, self._gate),
            (self._metrics, metrics, limits.Gate(_METRICS_CONNECTIONS)),
        ):
            factory = self._factory(app, gate)
            handshakes = limits.Gate(gate.most)
            for listening in sockets:
                if self._tls is None:
                    self._listeners.append(await asyncio.get_running_loop().create_server(factory, sock=listening))
                else:
                    self._listeners.append(TlsListener(listening, self._tls, factory, handshakes, app.refused))

    def _factory(self, app: FrontApp, gate: limits.Gate) -> Callable[[], asyncio.Protocol]:
        config = Config(
            cast("object", app),  # type: ignore[arg-type]
            http=CallerConnection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=int(limits.IDLE_SECONDS),
        )
        config.load()
        state = ServerState()
        self._states.append(state)
        return lambda: CallerConnection(config, state, gate, app.refused)

    async def look(self, up: int) -> None:
        """Once a second, as long as there are listeners: certificates that were renewed, and what is open.

        Args:
            up: a descriptor that gets one byte each time, so that the supervisor knows that this process lives.
        """
        stamp = self._certificate_stamp()
        while True:
            with suppress(OSError):  # nobody has read it for long, or the supervisor is no more, which `hear` tells
                os.write(up, b"1")
            self._recorder.set(FRONT_CONNECTIONS, self._gate.open)
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._certificate_stamp()
            if self._tls is not None and now != stamp:
                stamp = now
                try:
                    self._show(self._options.tls_context())
                except ServingError as error:  # half of a new pair, perhaps: the other half changes the files again
                    sys.stderr.write(f"{error}; the certificate from before is shown\n")

    def _show(self, tls: ssl.SSLContext | None) -> None:
        """New connections get these certificates; a context that is in use would lose its key to half of a new pair."""
        for listener in self._listeners:
            if isinstance(listener, TlsListener) and tls is not None:
                listener.tls = tls

    def _certificate_stamp(self) -> tuple[int, ...]:
        files = filter(None, (self._options.tls_cert, self._options.tls_key))
        with suppress(OSError):
            return tuple(os.stat(path).st_mtime_ns for path in files)
        return ()

    async def end(self) -> None:
        """Answer who waits in line, accept no more, and let what is in flight end, for `EXIT_SECONDS`."""
        self.served.tell(replace(self.served.state, is_draining=True))
        await asyncio.sleep(_LAST_SECONDS)
        for listener in self._listeners:
            listener.close()
        connections = [connection for state in self._states for connection in state.connections]
        for connection in connections:
            connection.shutdown()
        end = asyncio.get_running_loop().time() + EXIT_SECONDS
        while any(state.connections or state.tasks for state in self._states):
            if asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(0.02)
        for state in self._states:
            for task in state.tasks:
                task.cancel()


async def hear(served: Served, lines: asyncio.StreamReader) -> None:
    """Take the supervisor's word, line by line, until it says no more."""
    while line := await lines.readline():
        served.tell(state_of(line))


async def live(
    options: FrontOptions, http: Sequence[socket.socket], metrics: Sequence[socket.socket], up: int, log_file: int
) -> None:
    """Serve until SIGTERM, or until the supervisor is no more.

    Args:
        options: of the operator.
        http: sockets that listen for requests.
        metrics: sockets that listen for those who read metrics.
        up: a descriptor that gets one byte once connections are accepted, and one every second from then on.
        log_file: a descriptor for the lines of the log; −1: none.

    Raises:
        Exception: what hears of the server or looks after it failed; callers in flight had their answers first.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    recorder = Recorder.of_environment()
    log = EventLog(log_file, process="front", recorder=recorder) if log_file >= 0 else None
    server = FrontServer(options, recorder, log)
    lines = asyncio.StreamReader(limit=_LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin.buffer)
    await server.listen(http, metrics)
    os.set_blocking(up, False)
    tasks = [loop.create_task(hear(server.served, lines)), loop.create_task(server.look(up))]
    for task in tasks:
        task.add_done_callback(lambda _: ended.set())
    await ended.wait()
    failed = [error for task in tasks if task.done() and (error := task.exception())]
    for task in tasks:
        task.cancel()
    await server.end()
    if log is not None:
        log.close()
    if failed:
        raise failed[0]
