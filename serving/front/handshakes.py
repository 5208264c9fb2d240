"""Connections that do not speak TLS yet: counted, so that those that never say a word take only their share.

A server of asyncio tells of a connection once its handshake is done; one that is not would be counted nowhere.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from heatserve.serving.front.limits import Gate

HANDSHAKE_SECONDS = 10.0
"""The time in which a handshake must be done."""

_AT_ONCE = 100  # connections that are accepted before others have their turn
_PAUSE_SECONDS = 1.0  # where no descriptor is left


class TlsListener:
    """Accepts connections on one socket, does their handshakes, and hands them on.

    Attributes:
        tls: of the server, for connections from now on.
    """

    def __init__(
        self,
        listening: socket.socket,
        tls: ssl.SSLContext,
        factory: Callable[[], asyncio.Protocol],
        gate: Gate,
        on_refused: Callable[[str, int], None],
    ) -> None:
        """Begin to accept.

        Args:
            listening: listens already.
            tls: of the server.
            factory: makes the protocol of a connection, once its handshake is done.
            gate: counts the handshakes that are not done.
            on_refused: told the reason and the status, 0 since there is no answer, of what is closed here.
        """
        self._listening = listening
        self.tls = tls
        self._factory = factory
        self._gate = gate
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._handshakes = set[asyncio.Task[None]]()
        self._is_closed = False
        listening.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Accept no more, and give up the handshakes that are not done."""
        self._is_closed = True
        self._loop.remove_reader(self._listening)
        for task in self._handshakes:
            task.cancel()

    def _resume(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, (address, *_) = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor or no memory is left: who waits goes on to wait
                self._loop.remove_reader(self._listening)
                self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            if self._gate.enter(address):
                self._gate.leave(address, is_refused=True)
                connection.close()
                self._on_refused("connections", 0)
                continue
            task = self._loop.create_task(self._shake(connection, address))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake(self, connection: socket.socket, address: str) -> None:
        connection.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(
                self._factory, connection, ssl=self.tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except (OSError, asyncio.CancelledError):  # no TLS, too late, or gone
            connection.close()
        finally:
            self._gate.leave(address, is_refused=False)
