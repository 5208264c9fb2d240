"""Hostile gRPC: frames of HTTP/2 that no library sends, and messages that lie about their size."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

import grpc

from heatserve.benchmarks.fuzz.asking import channel_to
from heatserve.benchmarks.fuzz.grpc_requests import INFER, valid_message
from heatserve.benchmarks.fuzz.hostile import HostileCall
from heatserve.benchmarks.fuzz.subject import Subject
from heatserve.benchmarks.fuzz.target import FuzzTarget
from heatserve.benchmarks.wire import CLOSED, connection_to

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _CONTINUATION = 0, 1, 3, 4, 6, 9
_END_HEADERS = 4
_REPEATED = 10_000
_SECONDS = 10.0


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _field(name: bytes, value: bytes) -> bytes:
    """A header in HPACK, as text that no table keeps (RFC 7541, 6.2.2); both shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


_CALL = b"".join(
    _field(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", INFER.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
)


def _frames(target: FuzzTarget, content: bytes) -> str:
    """Send frames over a connection of their own; what becomes of it."""
    assert target.grpc is not None
    start = time.monotonic()
    with connection_to(target.grpc, source=target.stranger, timeout=_SECONDS) as connection:
        try:
            connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0) + content)
            while connection.recv(65536):
                if time.monotonic() > start + _SECONDS:
                    return "open"
        except TimeoutError:
            return "open"
        except ConnectionError:
            return CLOSED
    return CLOSED


def _garbage(target: FuzzTarget, _: Subject) -> str:
    assert target.grpc is not None
    for content in (b"\0" * 100_000, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01" * 1000):
        with suppress(OSError), connection_to(target.grpc, source=target.stranger, timeout=1) as connection:
            connection.sendall(content)
            connection.recv(1)
    return "3 connections"


def _resets(target: FuzzTarget, _: Subject) -> str:
    streams = range(1, 2 * _REPEATED, 2)
    content = (
        _frame(_HEADERS, _END_HEADERS, stream, _CALL) + _frame(_RESET, 0, stream, struct.pack(">I", 8))
        for stream in streams
    )
    return _frames(target, b"".join(content))


def _continued(target: FuzzTarget, _: Subject) -> str:
    more = _frame(_CONTINUATION, 0, 1, _field(b"x-a", b"a" * 100) * 10)
    return _frames(target, _frame(_HEADERS, 0, 1, _CALL) + more * _REPEATED)


def _pings(target: FuzzTarget, _: Subject) -> str:
    return _frames(target, _frame(_PING, 0, 0, b"\0" * 8) * _REPEATED + _frame(_SETTINGS, 0, 0) * _REPEATED)


def _announced(target: FuzzTarget, _: Subject) -> str:
    """A message of 4 GB that does not come."""
    return _frames(
        target, _frame(_HEADERS, _END_HEADERS, 1, _CALL) + _frame(_DATA, 0, 1, b"\0\xff\xff\xff\xff" + b"a" * 99)
    )


def _large(target: FuzzTarget, subject: Subject) -> str:
    return _called(target, subject, 200_000_000, grpc.Compression.NoCompression)


def _compressed(target: FuzzTarget, subject: Subject) -> str:
    return _called(target, subject, 200_000_000, grpc.Compression.Gzip)


def _called(target: FuzzTarget, subject: Subject, size: int, compression: grpc.Compression) -> str:
    assert target.grpc is not None
    request = valid_message(subject, subject.images[:1])
    request.raw_input_contents[0] = bytes(size)
    with channel_to(target.grpc) as channel:
        try:
            channel.unary_unary(INFER)(request.SerializeToString(), timeout=60, compression=compression)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "answered"


GRPC_CASES: Mapping[str, HostileCall] = MappingProxyType(
    {
        "gRPC: bytes that are no HTTP/2": _garbage,
        f"gRPC: {_REPEATED:,} calls that are reset at once": _resets,
        f"gRPC: headers that go on for {_REPEATED:,} frames": _continued,
        f"gRPC: {_REPEATED:,} pings and settings": _pings,
        "gRPC: a message of 4 GB is announced": _announced,
        "gRPC: a message of 200 MB": _large,
        "gRPC: 200 MB of zeros, compressed": _compressed,
    }
)
