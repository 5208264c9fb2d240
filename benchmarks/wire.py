"""HTTP as bytes on a socket: what no client would send, and what came back."""

from __future__ import annotations

import http.client
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from heatserve.serving.client.messages import JSON_LENGTH

CLOSED, SILENT = "closed", "silent"
_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class HttpMessage:
    """A request, as the parts of its bytes."""

    target: str
    body: bytes
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    """Besides `Host`."""
    length: str | None = "right"
    """`Content-Length`: a text; None: there is none; `right`: that of the body."""
    chunks: int = 0
    """Bytes of a chunk, for a body that is sent in chunks; 0: it is not."""

    def encoded(self, host: str = "localhost") -> bytes:
        """All that is sent to a server, which is called by this name."""
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.chunks:
            lines.append("Transfer-Encoding: chunked")
        elif self.length is not None:
            lines.append(f"Content-Length: {len(self.body) if self.length == 'right' else self.length}")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + self._framed()

    def _framed(self) -> bytes:
        if not self.chunks:
            return self.body
        pieces = (self.body[at : at + self.chunks] for at in range(0, len(self.body), self.chunks))
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@dataclass(frozen=True)
class HttpAnswer:
    """What came back."""

    outcome: str
    """A status, `closed` or `silent`."""
    body: bytes = b""
    json_length: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def connection_to(address: tuple[str, int], *, source: str = "", timeout: float = 10.0) -> Iterator[socket.socket]:
    """A connection, from another address of this machine if `source` names one."""
    connection = socket.create_connection(address, timeout, (source, 0) if source else None)
    try:
        yield connection
    finally:
        connection.close()


def exchange(address: tuple[str, int], content: bytes, *, source: str = "", timeout: float = 1.0) -> HttpAnswer:
    """Send these bytes over a connection of their own and read one answer.

    Args:
        address: host and port.
        content: what is sent.
        source: the address that it comes from; none: any.
        timeout: seconds without a byte after which the server counts as silent.
    """
    try:
        with connection_to(address, source=source, timeout=timeout) as connection:
            with suppress(ConnectionError):  # refused before it was read; the answer may be there
                connection.sendall(content)
            return read_answer(connection)
    except TimeoutError:
        return HttpAnswer(SILENT)
    except ConnectionError:
        return HttpAnswer(CLOSED)


def read_answer(connection: socket.socket) -> HttpAnswer:
    """One answer.

    Raises:
        OSError: as the socket does, after its timeout for one.
    """
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        body = response.read()
    except http.client.HTTPException:
        return HttpAnswer(CLOSED)
    length = response.headers.get(JSON_LENGTH)
    return HttpAnswer(
        str(response.status),
        body,
        int(length) if length else None,
        {name.lower(): value for name, value in response.getheaders()},
    )


def reset(connection: socket.socket) -> None:
    """Close a connection by a reset, as a process that dies does."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    connection.close()
