"""One request and its answer: read within its limits, answered, and written down."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from heatserve.serving.front.connections import CallerConnection, request_headers
from heatserve.serving.front.limits import BodyBytes
from heatserve.serving.front.refusals import FrontAnswer, GrpcFailure, Refusal, invalid, shown

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_HEADERS = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"inference-header-content-length",
        b"traceparent",
        b"x-request-id",
    }
)


class CallerLeft(Exception):
    """The caller closed the connection before he had his answer."""


class Exchange:
    """A request, and how it is answered."""

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, bodies: BodyBytes) -> None:
        """Read the headers that mean something here."""
        self.method: str = scope["method"]
        self.path: bytes = scope["raw_path"]
        self.connection: CallerConnection = scope["state"]["connection"]
        self.headers = request_headers(scope, _HEADERS)
        self.address = self.connection.address
        self.client = self.address
        """Who is counted by rates and limits: a token, once it is known, or an address."""
        self.begun = time.perf_counter()
        self.status = 0
        self.reason = ""
        self.failure: GrpcFailure | None = None
        self._receive = receive
        self._send = send
        self._bodies = bodies
        self._held = 0
        given = self.headers.get(b"x-request-id", b"")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else b"%032x" % random.getrandbits(128)
        traceparent = self.headers.get(b"traceparent", b"")
        self.traceparent = traceparent.decode() if _TRACEPARENT.fullmatch(traceparent) else ""

    @property
    def metadata(self) -> list[tuple[str, str]] | None:
        """What goes with a call to Triton: the trace that the call belongs to, if there is one."""
        return [("traceparent", self.traceparent)] if self.traceparent else None

    async def body(self, most: int) -> bytes:
        """The body, which is kept only as far as it has room.

        Raises:
            Refusal: it is encoded, larger than `most` bytes, or there is no room for it now.
            CallerLeft: he did.
        """
        encoding = self.headers.get(b"content-encoding", b"identity")
        if encoding.lower() != b"identity":
            raise Refusal(
                415,
                f"Content-Encoding: expected identity, got {shown(encoding.decode('latin-1'))}",
                reason="encoding",
                headers={b"accept-encoding": b"identity"},
            )
        length = self.headers.get(b"content-length", b"")
        if length and (len(length) > 18 or int(length) > most):
            raise _too_large(most, shown(length.decode()))
        parts = list[bytes]()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerLeft
            part = message["body"]
            if self._held + len(part) > most:
                raise _too_large(most, "more")
            if not self._bodies.take(self.client, len(part)):
                raise Refusal(
                    503,
                    "body: expected room for it, found that other requests hold all of it; ask again later",
                    reason="memory",
                    headers={b"retry-after": b"1"},
                )
            self._held += len(part)
            parts.append(part)
            if not message["more_body"]:
                break
        if not self._held:
            raise invalid("body: expected JSON, got no bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def send(self, answer: FrontAnswer, *, is_last: bool) -> None:
        """Write a whole answer.

        Args:
            answer: to the request.
            is_last: the connection ends with it.
        """
        headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body))]
        await self._start(answer.status, [*headers, *answer.headers.items()], is_last=is_last)
        await self._send({"type": "http.response.body", "body": answer.body})

    async def start_events(self, content_type: bytes, *, is_last: bool) -> None:
        """Begin an answer that comes in parts."""
        headers = [(b"content-type", content_type), (b"cache-control", b"no-store")]
        await self._start(200, headers, is_last=is_last)

    async def send_event(self, event: bytes, *, is_end: bool = False) -> None:
        """Write a part of it."""
        await self._send({"type": "http.response.body", "body": event, "more_body": not is_end})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]], *, is_last: bool) -> None:
        self.status = status
        ends = [(b"connection", b"close")] if is_last or self.connection.is_reading else []
        headers = [*headers, (b"x-request-id", self.request_id), *ends]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def end(self) -> float:
        """Let go of the body; the seconds that the request took."""
        self._bodies.give(self.client, self._held)
        self._held = 0
        return time.perf_counter() - self.begun


def _too_large(most: int, size: str) -> Refusal:
    return Refusal(413, f"body: expected at most {most} bytes for this model, got {size}", reason="size")
