"""The addresses that Triton listens on: chosen, checked and written as URLs."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal, get_args

from heatserve.serving.errors import ServingError
from heatserve.serving.triton.sockets import listener
from heatserve.serving.triton.versions import TritonVersion, check_exposed

LOOPBACK = "127.0.0.1"
"""Where this machine alone can connect."""

Service = Literal["http", "grpc", "metrics"]
SERVICES: tuple[Service, ...] = get_args(Service)


@dataclass(frozen=True)
class Endpoints:
    """An IPv4 address or host name, and TCP ports for HTTP, gRPC and Prometheus metrics; port 0 takes any free one."""

    host: str = "127.0.0.1"
    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002
    local: frozenset[Service] = frozenset()
    """What listens on 127.0.0.1 only, whatever `host` says."""
    encrypted: frozenset[Service] = frozenset()
    """What is spoken over TLS."""

    def __post_init__(self) -> None:
        """Refuse one port for two services, of which the second would find the first listening.

        Raises:
            ServingError: names both options.
        """
        given: dict[int, str] = {}
        for service in SERVICES:
            port = getattr(self, service)
            if port and port in given:
                raise ServingError(
                    f"--{given[port]}-port, --{service}-port: expected a port for each, got {port} for both"
                )
            given[port] = service

    @property
    def http_url(self) -> str:
        """Where this machine reaches HTTP."""
        return f"{self._scheme('http')}://{self._reachable('http')}:{self.http}"

    @property
    def grpc_url(self) -> str:
        """Where this machine reaches gRPC."""
        return f"{self._scheme('grpc')}://{self._reachable('grpc')}:{self.grpc}"

    @property
    def metrics_url(self) -> str:
        """Where this machine reads Prometheus metrics."""
        return f"{self._scheme('metrics')}://{self._reachable('metrics')}:{self.metrics}/metrics"

    def address(self, service: Service) -> str:
        """The address that a service listens on."""
        return LOOPBACK if service in self.local else self.host

    def all_local(self) -> Endpoints:
        """The same endpoints, for this machine only."""
        return self if self.is_loopback else replace(self, local=frozenset(SERVICES))

    @property
    def is_loopback(self) -> bool:
        """Whether `host` is an address, or a name of one, that this machine alone can reach.

        Raises:
            ServingError: unknown host.
        """
        return ipaddress.ip_address(_resolved(self.host)).is_loopback

    def _scheme(self, service: Service) -> str:
        return ("grpc" if service == "grpc" else "http") + ("s" if service in self.encrypted else "")

    def _reachable(self, service: Service) -> str:
        address = self.address(service)
        return LOOPBACK if address == "0.0.0.0" else address

    def resolved(self) -> Endpoints:
        """The same endpoints with an address as host.

        Raises:
            ServingError: unknown host.
        """
        return replace(self, host=_resolved(self.host))

    def bound(self) -> Endpoints:
        """The same endpoints with the host resolved and each port 0 replaced by a free port.

        Raises:
            ServingError: unknown host, or a port that is taken or forbidden. Names it and its option.
        """
        resolved = self.resolved()
        with ExitStack() as held:  # all three at once, so that no two get the same free port
            ports = {
                name: bind_port(
                    held.enter_context(socket.socket()), resolved.address(name), getattr(self, name), f"--{name}-port"
                )
                for name in SERVICES
            }
        return replace(resolved, http=ports["http"], grpc=ports["grpc"], metrics=ports["metrics"])


def behind_front(
    wanted: Endpoints,
    version: TritonVersion | None,
    *,
    triton_http: int | None = None,
    guard: str = "",
    has_client_ca: bool = False,
) -> Endpoints:
    """What Triton listens on where a front has the ports for HTTP and metrics: gRPC, and what only the front is told.

    Args:
        wanted: what the operator asked for; its ports `http` and `metrics` are the front's.
        version: of Triton.
        triton_http: a port for Triton's own HTTP at `wanted.host`, beside the front's; None: on this machine only.
        guard: the option by which the front lets in only who brings a token, or asks no more than a rate; empty:
            everybody. Triton knows neither, so that its gRPC is for this machine only.
        has_client_ca: whether callers must show a certificate; Triton's gRPC asks for it, its HTTP does not.

    Raises:
        ServingError: unknown host, or Triton's own HTTP for other machines where its version is below the floor, or
            where they meet a guard.
    """
    local: set[Service] = {"http", "metrics"}
    if triton_http is not None:
        local.remove("http")
        if not wanted.is_loopback:
            check_exposed(f"--triton-http-port {triton_http}", version)
            if guard := guard or ("--client-ca" if has_client_ca else ""):
                raise ServingError(
                    f"--triton-http-port {triton_http}: expected it without {guard} where --host is not this machine "
                    "alone, got both; Triton's own HTTP knows no tokens, rates or certificates"
                )
    if guard and not wanted.is_loopback:
        local.add("grpc")
    return replace(wanted, http=triton_http or 0, metrics=0, local=frozenset(local))


STANDARD_PORTS = Endpoints()
"""Triton's own ports, reachable from this machine only."""

FREE_PORTS = Endpoints(http=0, grpc=0, metrics=0)
"""Any free ports, reachable from this machine only."""


def _resolved(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise ServingError(f"--host {host}: expected an IPv4 address or a host name, found: {error.strerror}") from None


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
                f"--host {host}: expected an address of this machine (0.0.0.0: all of them), found another one"
            ) from None
        problem = getattr(error, "strerror", None) or error
        raise ServingError(f"{option} {port}: expected a port to listen on at {host}, found: {problem}") from None
    return int(listening.getsockname()[1])
