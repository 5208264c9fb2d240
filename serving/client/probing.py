"""What is spoken at an address where a client found no server: most often it is the server's other port."""

from __future__ import annotations

import socket
import ssl
from typing import Literal

from heatserve.serving.client.address import ServerAddress
from heatserve.serving.errors import ServingError

_SECONDS = 1.0
_GREETING = b"GET /v2/health/live HTTP/1.0\r\n\r\n"

Spoken = Literal["grpc", "http", "tls"]


def other_protocol(address: ServerAddress, *, seconds: float) -> ServingError | None:
    """The error that says which protocol is spoken at an address in place of the URL's; None: that is not known.

    Args:
        address: where a client of its protocol found no server.
        seconds: how long to wait for an answer at most.
    """
    spoken = None if address.proxy else _spoken(address, min(seconds, _SECONDS))
    protocol = "http" if address.is_http else "grpc"
    if spoken is None or spoken == ("tls" if address.is_encrypted else protocol):
        return None
    name = {"grpc": "gRPC", "http": "HTTP", "tls": "TLS"}
    right = f"{protocol}s" if spoken == "tls" else spoken
    expected = "TLS" if address.is_encrypted else name[protocol]
    there = f"{right}://{address.host_and_port}"
    other = f"{name[protocol]}{' with TLS' if address.is_encrypted else ''}"
    return ServingError(
        f"{address.url}: expected {expected}, found that {name[spoken]} is spoken here; try {there}, or the "
        f"server's port for {other}"
    )


def _spoken(address: ServerAddress, seconds: float) -> Spoken | None:
    """What answers a request of HTTP 1.0: frames of HTTP/2, HTTP, or an alert of TLS; or else shakes hands by TLS."""
    try:
        with _connected(address, seconds) as connection:
            connection.sendall(_GREETING)
            answer = connection.recv(1024)
    except OSError:
        answer = b""
    if answer.startswith(b"\0\0"):
        return "grpc"
    if answer.startswith((b"\x15\x03", b"\x16\x03")) or b"HTTPS port" in answer:
        return "tls"
    if answer:
        return "http" if answer.startswith(b"HTTP/1.") else None
    return "tls" if _shakes_hands(address, seconds) else None


def _shakes_hands(address: ServerAddress, seconds: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent, and nothing believed
    try:
        with _connected(address, seconds) as connection, context.wrap_socket(connection):
            return True
    except OSError:
        return False


def _connected(address: ServerAddress, seconds: float) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=max(seconds, 0.001))
