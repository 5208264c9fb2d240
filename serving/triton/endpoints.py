"""The addresses that Triton listens on: chosen, checked and written as URLs."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace

from heatserve.serving.errors import ServingError
from heatserve.serving.triton.sockets import listener

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Endpoints:
    """An IPv4 address or host name, and TCP ports for HTTP, gRPC and Prometheus metrics; port 0 takes any free one."""

    host: str = "127.0.0.1"
    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002
    http_host: str | None = None
    """Where HTTP and metrics, which is HTTP too, listen, if not where gRPC does."""

    @property
    def http_url(self) -> str:
        """Where this machine reaches HTTP."""
        return f"http://{self.http_host or self._reachable}:{self.http}"

    @property
    def grpc_url(self) -> str:
        """Where this machine reaches gRPC."""
        return f"grpc://{self._reachable}:{self.grpc}"

    @property
    def metrics_url(self) -> str:
        """Where this machine reads Prometheus metrics."""
        return f"http://{self.http_host or self._reachable}:{self.metrics}/metrics"

    @property
    def _reachable(self) -> str:
        return _LOOPBACK if self.host == "0.0.0.0" else self.host

    def with_local_http(self) -> Endpoints:
        """The same endpoints, but with HTTP and metrics for this machine only."""
        return replace(self, http_host=_LOOPBACK)

    def bound(self) -> Endpoints:
        """The same endpoints with the host resolved and each port 0 replaced by a free port.

        Raises:
            ServingError: unknown host, or a port that is taken or forbidden. Names it and its option.
        """
        try:
            host = socket.gethostbyname(self.host)
        except OSError as error:
            raise ServingError(f"--host {self.host}: expected an IPv4 address or a host name: {error}") from None
        http_host = self.http_host or host
        with ExitStack() as held:  # all three at once, so that no two get the same free port
            ports = {
                name: bind_port(held.enter_context(socket.socket()), where, getattr(self, name), f"--{name}-port")
                for name, where in (("http", http_host), ("grpc", host), ("metrics", http_host))
            }
        return replace(self, host=host, http=ports["http"], grpc=ports["grpc"], metrics=ports["metrics"])


STANDARD_PORTS = Endpoints()
"""Triton's own ports, reachable from this machine only."""

FREE_PORTS = Endpoints(http=0, grpc=0, metrics=0)
"""Any free ports, reachable from this machine only."""


def bind_port(listening: socket.socket, host: str, port: int, option: str) -> int:
    """Bind a socket, and have it listen where any port will do; the port.

    Raises:
        ServingError: the port is taken or forbidden, or the address is none of this machine. Names the option.
    """
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for Triton, too
    try:
        listening.bind((host, port))
        if port == 0:  # keeps others off a port that is ours; on one that is given it would end who starts beside us
            listening.listen()
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise ServingError(
                f"{option} {port}: expected a free port, found that {listener(port) or 'something'} listens on "
                f"{host}:{port} already; stop it, or pass another port ({option} 0 takes any free one)"
            ) from None
        if getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
            raise ServingError(
                f"--host {host}: expected an address of this machine (0.0.0.0: all of them): {error}"
            ) from None
        raise ServingError(f"{option} {port}: expected a port to listen on at {host}: {error}") from None
    return int(listening.getsockname()[1])
