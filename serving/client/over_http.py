"""HTTP to one server, blocking: for any number of threads, and for processes that are forked.

urllib3 keeps the connections. What it does not bound is bounded here: the search for the address of a name, and an
answer that comes a byte at a time, for its timeout is that of each read.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from heatserve.serving.client.access import Access
from heatserve.serving.client.bounded import bounded
from heatserve.serving.client.events import EventLines, event_body
from heatserve.serving.client.http_answers import config_of, config_path, infer_path, refuse, stream_path
from heatserve.serving.client.messages import JSON_LENGTH, InferRequest, InferResult, http_message, read_http_result

_CONNECTIONS = 64  # kept open between requests; more are made where more threads ask at once
_CHUNK = 2**16


class _BoundedReads(io.RawIOBase):
    """The bytes of a connection until a moment."""

    def __init__(self, connection: socket.socket, end: float) -> None:
        self._connection = connection
        self._end = end
        self._raw = cast(io.RawIOBase, connection.makefile("rb", buffering=0))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(left)
        return cast("int | None", cast(Any, self._raw).readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    """A response that has to end within the timeout of the connection, however often bytes come."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        timeout = sock.gettimeout()
        if timeout is not None:
            self.fp.close()
            self.fp = io.BufferedReader(_BoundedReads(sock, time.monotonic() + timeout))


class _Connecting(HTTPConnection):
    """Connects to the first address of a host that answers, in the time of the connection for all together."""

    response_class = _BoundedResponse

    def _new_conn(self) -> socket.socket:
        host, port, end = self._dns_host, self.port, time.monotonic() + (self.timeout or 0.0)
        problem: OSError = OSError("no address")
        try:
            found = bounded(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM), self.timeout or 0.0)
            for family, kind, protocol, _, where in found:
                try:
                    return self._connected(socket.socket(family, kind, protocol), where, end - time.monotonic())
                except OSError as error:
                    problem = error
        except socket.gaierror as error:
            raise NameResolutionError(host, self, error) from error
        except TimeoutError as error:
            problem = error
        if isinstance(problem, TimeoutError):
            raise ConnectTimeoutError(self, "timed out") from problem
        raise NewConnectionError(self, str(problem)) from problem

    def _connected(self, connection: socket.socket, where: Any, seconds: float) -> socket.socket:
        try:
            if seconds <= 0:
                raise TimeoutError
            for option in self.socket_options or ():
                connection.setsockopt(*option)
            connection.settimeout(seconds)
            connection.connect(where)
        except BaseException:
            connection.close()
            raise
        return connection


class _ConnectingEncrypted(_Connecting, HTTPSConnection):
    """The same, with TLS on top."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connecting


class _EncryptedPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _ConnectingEncrypted


class HttpTransport:
    """Blocking, for any number of threads and forked processes."""

    def __init__(self, access: Access) -> None:
        """Describe the way; the first request connects."""
        self._access = access
        self._connections = _connections(access)
        self._process = os.getpid()

    def config(self, model: str, version: str = "", *, seconds: float) -> Mapping[str, Any]:
        """A model's configuration, or that of one of its versions, as JSON."""
        with self._answered("GET", config_path(model, version), None, {}, seconds) as answer:
            return config_of(answer.data)

    def infer(self, request: InferRequest, *, seconds: float) -> InferResult:
        """The answer to a request."""
        body, json_bytes = http_message(request)
        headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(json_bytes)}
        with self._answered("POST", infer_path(request.model), body, headers, seconds) as answer:
            return read_http_result(answer.data, answer.headers.get(JSON_LENGTH))

    def stream(self, request: InferRequest, *, seconds: float) -> Generator[InferResult, None, None]:
        """The answers to a request, as they come."""
        headers = {"Content-Type": "application/json"}
        with self._answered("POST", stream_path(request.model), event_body(request), headers, seconds) as answer:
            lines = EventLines(answer.headers.get("Content-Type", ""))
            while chunk := answer.read1(_CHUNK):
                yield from lines.results(chunk)
            yield from lines.results(b"\n")

    def close(self) -> None:
        """Close the connections; a request after that makes others."""
        if self._process == os.getpid():
            self._connections.clear()

    @contextmanager
    def _answered(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], seconds: float
    ) -> Generator[urllib3.BaseHTTPResponse, None, None]:
        """A response of status 200; what is not read of it is given up."""
        if self._process != os.getpid():  # both processes on one connection would read each other's answers
            self._connections, self._process = _connections(self._access), os.getpid()
        answer = self._connections.urlopen(
            method,
            self._access.address.url + path,
            body=body,
            headers={**self._access.request_headers(), **headers},
            timeout=urllib3.Timeout(total=max(seconds, 0.001)),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        is_done = False
        try:
            if answer.status != http.client.OK:
                refuse(answer.status, answer.headers, answer.data)
            yield answer
            is_done = True
        finally:
            if is_done:
                answer.drain_conn()
                answer.release_conn()
            else:
                answer.close()


def _connections(access: Access) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": _CONNECTIONS}
    if access.address.is_encrypted:
        options["ssl_context"] = access.tls.context()
    proxy = access.address.proxy
    if proxy is None:
        manager = urllib3.PoolManager(**options)
    else:
        parts = urlsplit(proxy)
        account = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if parts.username else None
        headers = urllib3.make_headers(proxy_basic_auth=account)
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        manager = urllib3.ProxyManager(plain, proxy_headers=headers, **options)
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _EncryptedPool}
    return manager
