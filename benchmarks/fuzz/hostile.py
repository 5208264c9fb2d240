"""Hostile HTTP: what ended or swelled servers before, connections that say nothing or too much, and bodies that lie.

The first four are those that end or fill the Triton 2.51 of nvidia-pytriton 0.7.0 over HTTP.
"""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from heatserve.benchmarks.fuzz.http_requests import valid_binary, valid_json
from heatserve.benchmarks.fuzz.subject import Subject
from heatserve.benchmarks.fuzz.target import Address, FuzzTarget
from heatserve.benchmarks.wire import CLOSED, SILENT, HttpMessage, connection_to, exchange, read_answer, reset

PATIENCE_SECONDS = 60.0
"""How long a connection is watched that the server should close."""
_ANSWER_SECONDS = 20.0
_MANY = 200

HostileCall = Callable[[FuzzTarget, Subject], str]


def _sent(target: FuzzTarget, content: bytes, *, address: Address | None = None) -> str:
    """How one request ended that is sent whole."""
    where = address or target.http
    assert where is not None
    answer = exchange(where, content, source=target.stranger, timeout=_ANSWER_SECONDS)
    return f"status {answer.outcome}" if answer.outcome.isdigit() else answer.outcome


def _changed(subject: Subject, **fields: object) -> bytes:
    """The JSON of a valid request with other fields in its tensor."""
    document = json.loads(valid_json(subject, subject.images[:1]).body)
    document["inputs"][0].update(fields)
    return json.dumps(document).encode()


def _infer(subject: Subject, body: bytes, *, chunks: int = 0, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    target = f"/v2/models/{subject.name}/infer"
    return HttpMessage(target, body, headers=headers, chunks=chunks).encoded()


def _shape(target: FuzzTarget, subject: Subject) -> str:
    shapes = ([2**32, *subject.shape], [1, 2**32, 2**32, 8], [2**62, 1, 8, 8], [10**30, *subject.shape])
    return _all(_sent(target, _infer(subject, _changed(subject, shape=shape))) for shape in shapes)


def _nesting(target: FuzzTarget, subject: Subject) -> str:
    bodies = (b"[" * 100_000, b"[" * 5_000_000, b'{"a":' * 1_000_000, _changed(subject, data=0)[:-1] + b"[" * 100_000)
    return _all(_sent(target, _infer(subject, body)) for body in bodies)


def _chunks(target: FuzzTarget, subject: Subject) -> str:
    return _sent(target, _infer(subject, b" " * 1_000_000, chunks=1))


def _chunks_at_metrics(target: FuzzTarget, _: Subject) -> str:
    contents = (
        HttpMessage(path, b" " * 1_000_000, method="GET", chunks=1).encoded()
        for path in ("/metrics", "/v2/health/ready")
    )
    return _all(
        _sent(target, content, address=address)
        for content, address in zip(contents, (target.metrics or target.http, target.http), strict=True)
    )


def _gzip(target: FuzzTarget, subject: Subject) -> str:
    plain = valid_json(subject, subject.images[:1]).body
    bodies = (gzip.compress(plain), gzip.compress(b" " * 200_000_000))
    return _all(_sent(target, _infer(subject, body, headers=(("Content-Encoding", "gzip"),))) for body in bodies)


def _large_headers(target: FuzzTarget, subject: Subject) -> str:
    valid = valid_binary(subject, subject.images[:1])
    variants = (
        (("X-Large", "a" * 10_000_000),),
        tuple((f"X-{number}", "a") for number in range(100_000)),
        (("X-" + "a" * 1_000_000, "a"),),
    )
    return _all(_sent(target, replace(valid, headers=(*valid.headers, *extra)).encoded()) for extra in variants)


def _large_body(target: FuzzTarget, subject: Subject) -> str:
    announced = HttpMessage(f"/v2/models/{subject.name}/infer", b"{", length=str(2**40)).encoded()
    real = _infer(subject, b" " * 100_000_000)
    chunked = _infer(subject, b" " * 100_000_000, chunks=1_000_000)
    return _all(_sent(target, content) for content in (announced, real, chunked))


def _two_lengths(target: FuzzTarget, subject: Subject) -> str:
    valid = valid_binary(subject, subject.images[:1])
    size = str(len(valid.body))
    variants = (
        (("Content-Length", size),),
        (("Content-Length", "5"),),
        (("Transfer-Encoding", "chunked"),),
        (("Transfer-Encoding", "\tchunked"),),
        (("Transfer-Encoding", "gzip, chunked"),),
    )
    return _all(_sent(target, replace(valid, headers=(*valid.headers, *extra)).encoded()) for extra in variants)


def _pipelined(target: FuzzTarget, subject: Subject) -> str:
    """A thousand requests at once, whose answers nobody reads before the last was sent."""
    assert target.http is not None
    content = valid_binary(subject, subject.images[:1]).encoded() * 1000
    with connection_to(target.http, source=target.stranger, timeout=_ANSWER_SECONDS) as connection:
        try:
            connection.sendall(content)
        except TimeoutError:
            return "not read on"
        except ConnectionError:
            return CLOSED
        return _read_to_end(connection)


def _read_to_end(connection: socket.socket) -> str:
    count, outcome = 0, ""
    try:
        while (answer := read_answer(connection)).outcome == "200":
            count += 1
        outcome = f"status {answer.outcome}" if answer.outcome.isdigit() else answer.outcome
    except (TimeoutError, ConnectionError) as error:
        outcome = SILENT if isinstance(error, TimeoutError) else CLOSED
    return f"{count} answered, then {outcome}"


def _unread(target: FuzzTarget, subject: Subject) -> str:
    """Callers who ask and never read: how long until each is closed."""
    assert target.http is not None
    content = valid_json(subject, subject.images[:1]).encoded()
    with connection_to(target.http, source=target.stranger, timeout=PATIENCE_SECONDS) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        start = time.monotonic()
        try:
            while time.monotonic() < start + PATIENCE_SECONDS:
                connection.sendall(content)
        except TimeoutError:
            return "not read on"
        except ConnectionError:
            return f"closed after {time.monotonic() - start:.0f} s"
    return "read on"


def _trickled(target: FuzzTarget, subject: Subject, *, body: bool) -> str:
    """A byte each half second, of the headers or of the body: how long until it is closed."""
    assert target.http is not None
    message = valid_json(subject, subject.images[:1])
    content = message.encoded()
    begun = content.index(b"\r\n\r\n") + 4 if body else 10
    with connection_to(target.http, source=target.stranger) as connection:
        connection.sendall(content[:begun])
        start = time.monotonic()
        connection.settimeout(0.5)
        for byte in content[begun:]:
            if time.monotonic() > start + PATIENCE_SECONDS:
                return f"open after {PATIENCE_SECONDS:.0f} s"
            with suppress(TimeoutError):
                try:
                    connection.sendall(bytes([byte]))
                    answer = read_answer(connection)
                except ConnectionError:
                    return f"closed after {time.monotonic() - start:.0f} s"
                told = f"status {answer.outcome}" if answer.outcome.isdigit() else answer.outcome
                return f"{told} after {time.monotonic() - start:.0f} s"
    return "answered"


def _idle(target: FuzzTarget, subject: Subject) -> str:
    """A connection that was used once: how long it is kept open."""
    assert target.http is not None
    with connection_to(target.http, source=target.stranger, timeout=_ANSWER_SECONDS) as connection:
        connection.sendall(valid_binary(subject, subject.images[:1]).encoded())
        read_answer(connection)
        start = time.monotonic()
        connection.settimeout(2 * PATIENCE_SECONDS)
        try:
            connection.recv(1)
        except TimeoutError:
            return f"open after {2 * PATIENCE_SECONDS:.0f} s"
        return f"closed after {time.monotonic() - start:.0f} s"


def _half(target: FuzzTarget, subject: Subject) -> str:
    """Requests that stop halfway; the connection is closed or reset."""
    assert target.http is not None
    content = valid_json(subject, subject.images[:1]).encoded()
    for number in range(_MANY):
        with connection_to(target.http, source=target.stranger) as connection:
            connection.sendall(content[: number * len(content) // _MANY])
            if number % 2:
                reset(connection)
    return f"{_MANY} connections"


@contextmanager
def silent_connections(address: Address, source: str, first: bytes = b"") -> Iterator[int]:
    """Many connections that are open at once and say nothing, or nothing after their first bytes; yields how many."""
    with ExitStack() as stack:
        count = 0
        for _ in range(_MANY):
            try:
                connection = stack.enter_context(connection_to(address, source=source))
                connection.sendall(first)
            except OSError:
                break
            count += 1
        yield count


def _all(outcomes: Iterator[str]) -> str:
    return ", ".join(outcomes)


HTTP_CASES: Mapping[str, HostileCall] = MappingProxyType(
    {
        "JSON with a shape of 2³² images, of 2³²×2³² pixels, of 2⁶² and of 10³⁰ images": _shape,
        "JSON nested 100,000 and 5,000,000 lists deep, 1,000,000 objects, and 100,000 lists within a request": _nesting,
        "a body of 1,000,000 chunks of a byte": _chunks,
        "the same at the metrics port and at `/v2/health/ready`": _chunks_at_metrics,
        "gzip: a valid request, and 200 MB of spaces in 200 kB": _gzip,
        "headers: one of 10 MB, 100,000, a name of 1 MB": _large_headers,
        "bodies: 2⁴⁰ bytes announced, 100 MB, 100 MB in chunks": _large_body,
        "lengths: twice the same, two, beside chunks in three ways": _two_lengths,
        "1,000 valid requests at once on one connection": _pipelined,
        f"{_MANY} requests that stop halfway": _half,
    }
)
"""Those that are over soon."""

SLOW_HTTP_CASES: Mapping[str, HostileCall] = MappingProxyType(
    {
        "headers, a byte each half second": partial(_trickled, body=False),
        "a body, a byte each half second": partial(_trickled, body=True),
        "a caller who asks and never reads": _unread,
        "a connection that was used once": _idle,
    }
)
"""Those that wait for the server, at the same time."""
