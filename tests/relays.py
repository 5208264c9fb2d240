"""What stands between a client and a server in tests: a relay of bytes, with TLS or without, proxies, certificates."""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest


def host_and_port(url: str) -> tuple[str, int]:
    """Where a URL of Triton is."""
    host, _, port = url.partition("://")[2].rpartition(":")
    return host, int(port)


class Relay:
    """Hands bytes on between those who connect and a server, until it is closed; it can be opened again."""

    def __init__(self, target: tuple[str, int], *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._target = target
        self._tls = tls
        self._host = host
        self._sockets = list[socket.socket]()
        self.port = 0
        self.connections = 0
        self.is_silent = False
        """Connections that were made so far are kept, and hand nothing on any more."""

    @property
    def address(self) -> str:
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    def __enter__(self) -> Relay:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._listener = socket.create_server((self._host, self.port), family=family)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """End all connections, as a server that ends does, and refuse others."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._sockets.clear()

    def fall_silent(self) -> None:
        """Let the connections of now end without a word, as a machine that loses its power does."""
        self._silenced = {id(one) for one in self._sockets}

    _silenced: set[int] = set()  # noqa: RUF012  # replaced, never changed

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        try:
            if self._tls:
                caller = self._tls.wrap_socket(caller, server_side=True)
            server = socket.create_connection(self._target)
        except OSError:
            caller.close()
            return
        self.connections += 1
        self._sockets += [caller, server]
        threading.Thread(target=self._hand_on, args=(caller, server), daemon=True).start()
        self._hand_on(server, caller)

    def _hand_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(65536):
                if id(source) not in self._silenced:
                    sink.sendall(part)
        if id(source) not in self._silenced:
            for one in (source, sink):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


@dataclass
class Seen:
    """Requests that came to a front, and what it is told to make of them."""

    paths: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    answers: list[tuple[int, Mapping[str, str], bytes] | None] = field(default_factory=list)
    """What it answers in place of the server, one request each; None: it ends the connection."""


@contextmanager
def http_front(target: str, *, prefix: str = "", seen: Seen) -> Iterator[str]:
    """`host:port` of a proxy in front of a server's HTTP; it also takes requests for another host, as proxies do."""
    host, port = host_and_port(target)

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def _hand_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.paths.append(self.path)
            seen.headers.append({name.lower(): value for name, value in self.headers.items()})
            if seen.answers:
                answer = seen.answers.pop(0)
                if answer is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    self._answer(*answer)
                return
            path = self.path[self.path.index("/v2") :] if self.path.startswith(("http://", prefix)) else "/nowhere"
            server = http.client.HTTPConnection(host, port, timeout=60)
            kept = ("Content-Type", "Inference-Header-Content-Length")
            server.request(
                self.command, path, body, {name: self.headers[name] for name in kept if name in self.headers}
            )
            found = server.getresponse()
            names = ("Content-Type", "Inference-Header-Content-Length")
            said = {name: value for name in names if (value := found.headers.get(name))}
            self._answer(found.status, said, found.read())
            server.close()

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _hand_on

    front = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    threading.Thread(target=front.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{front.server_port}"
    finally:
        front.shutdown()
        front.server_close()


@contextmanager
def tunnel_proxy(target: tuple[str, int], asked: list[str]) -> Iterator[str]:
    """The URL of a proxy that makes tunnels (CONNECT), all of them to one server; `asked` is for where."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(caller: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += caller.recv(4096)
        asked.append(head.split(b"\r\n", 1)[0].decode())
        server = socket.create_connection(target)
        caller.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        def hand_on(source: socket.socket, sink: socket.socket) -> None:
            with suppress(OSError):
                while part := source.recv(65536):
                    sink.sendall(part)

        threading.Thread(target=hand_on, args=(caller, server), daemon=True).start()
        hand_on(server, caller)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def answering(answer: Callable[[socket.socket], Any]) -> Iterator[str]:
    """`host:port` where each connection gets what `answer` sends after its first bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(caller: socket.socket) -> None:
        with suppress(OSError), caller:
            caller.recv(65536)
            answer(caller)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@dataclass(frozen=True)
class Certificates:
    """Files of a small CA, of a server of this machine, and of a client, all in PEM; the last has its key in it."""

    ca: Path
    server: Path
    client: Path
    stranger: Path
    """A certificate that the CA did not sign."""

    def server_context(self, *, asks_clients: bool = False) -> ssl.SSLContext:
        """TLS of the server, for gRPC and HTTP."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(self.server)
        context.set_alpn_protocols(["h2", "http/1.1"])
        if asks_clients:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def make_certificates(folder: Path) -> Certificates:
    """Make them with openssl, for two days."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    names = "subjectAltName=DNS:localhost,DNS:triton.example,IP:127.0.0.1,IP:::1\n"
    (folder / "names.txt").write_text(names)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "stranger"):
        openssl(
            "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "2"
        )
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names.txt")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    for name in ("server", "client", "stranger"):
        with (folder / f"{name}.pem").open("a") as file:
            file.write((folder / f"{name}.key").read_text())
    return Certificates(*(folder / f"{name}.pem" for name in ("ca", "server", "client", "stranger")))
