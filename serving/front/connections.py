"""One connection of a caller: uvicorn's HTTP/1.1, with what that leaves unbounded bounded.

uvicorn parses by llhttp, which refuses what is ambiguous: two lengths, a length beside chunks, spaces in names. It has
no limit to headers, no time for headers, for a body or for an answer that nobody reads, and counts no addresses.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from heatserve.serving.front import limits
from heatserve.serving.front.refusals import error_body

_CONTINUE = b"HTTP/1.1 100 "
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 2**26
_LOOK_SECONDS = 1.0  # between two looks at how fast a body comes


class _Breach(Exception):
    """A limit that was broken while the parser called back."""


class _AnswerTransport:
    """The transport as one answer has it: its head goes out with what follows, and we close what it closes."""

    __slots__ = ("_close", "_head", "_is_begun", "_write", "is_closing")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.is_closing = transport.is_closing
        self._write = transport.write
        self._close = close
        self._is_begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write, but for a head, which waits for the body that is there already: one packet in place of two.

        Where the caller has left nothing is written, and nothing fails: that would cancel a stream in Triton.
        """
        if self.is_closing():
            self._head = b""
        elif self._head:
            self._write(self._head + data)
            self._head = b""
        elif self._is_begun or data.startswith(_CONTINUE):
            self._write(data)
        else:
            self._is_begun = True
            self._head = data

    def flush(self) -> None:
        """Write a head that nothing followed."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Close it in order."""
        self.flush()
        self._close()


class CallerConnection(HttpToolsProtocol):
    """A connection with limits; `on_lost` is called where the caller leaves before he has his answer.

    One whose caller left counts until nothing that he asked for is computed: `settle` says so.
    """

    def __init__(
        self, config: Config, state: ServerState, gate: limits.Gate, on_refused: Callable[[str, int], None]
    ) -> None:
        """Wait for a caller.

        Args:
            config: of uvicorn.
            state: of uvicorn: the connections and tasks that there are.
            gate: counts connections.
            on_refused: told the reason and the status of what is refused here.
        """
        super().__init__(config, state, {})
        self.on_lost: Callable[[], object] | None = None
        self.is_lost = False
        self.address = ""
        self._is_counted = self._is_turned_away = self._is_answering = False
        self._gate = gate
        self._on_refused = on_refused
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._phase = ""
        self._is_in_headers = self._is_in_body = False
        self._is_refused = False
        self._closes_when_answered = False
        self._unanswered = self._requests = self._hosts = 0
        self._header_bytes = self._body_bytes = self._around_bytes = self._dropped_bytes = 0
        self._body_due = 0.0
        self._breach = (http.HTTPStatus.BAD_REQUEST, "request: expected HTTP/1.1, got something else", "malformed")

    @property
    def is_reading(self) -> bool:
        """Whether the request that is answered next has not come whole yet; to answer it now ends the connection."""
        return self._is_in_body and self._unanswered == 1

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count it, and give the first request its time."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        problem = self._gate.enter(self.address)
        self._is_counted, self._is_turned_away = True, bool(problem)
        if problem and self._gate.is_flooded:
            self._is_refused = True
            self._on_refused("connections", 0)
            self.transport.abort()
        elif problem:
            self._refuse(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{problem}; ask again later", "connections")
        else:
            self._enter("headers")

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it, and give up what the caller asked for."""
        self.is_lost = True
        self._enter("")
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()
        if not self._is_answering:
            self._leave()

    def begin(self, on_lost: Callable[[], object] | None) -> None:
        """A request is answered from now on; with None it is also where the caller leaves."""
        self.on_lost = on_lost
        self._is_answering = True

    def settle(self) -> None:
        """Nothing is computed for it any more."""
        self.on_lost = None
        self._is_answering = False
        if self.is_lost:
            self._leave()

    def _leave(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._gate.leave(self.address, is_refused=self._is_turned_away)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and give what is to come its time."""
        if self._is_refused:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > _LINGER_BYTES:
                self.transport.abort()
            return
        before = (self._is_in_body, self._is_in_headers, self._requests)
        super().data_received(data)
        if self._is_refused:
            return
        if before == (True, False, self._requests) and self._is_in_body:
            self._around_bytes += len(data)
            if self._around_bytes - self._body_bytes > limits.OVERHEAD_BYTES + self._body_bytes // 4:
                self._refuse(400, "body: expected larger chunks, got mostly what is around them", "chunks")
        elif before == (False, True, self._requests) and self._is_in_headers:
            self._count_header(len(data))
        self._enter("body" if self._is_in_body else "headers" if self._is_in_headers or not self._unanswered else "")

    # What the parser finds

    def on_message_begin(self) -> None:
        """Begin to count a request."""
        super().on_message_begin()
        self._is_in_headers = True
        self._requests += 1
        self._hosts = 0
        self._header_bytes = self._body_bytes = self._around_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Count its bytes."""
        super().on_url(url)
        self._count_line(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count its bytes; a trailer behind a body counts like any other and is dropped."""
        self._count_line(len(name) + len(value) + 4)
        if self._is_in_headers:
            super().on_header(name, value)
            self._hosts += name.lower() == b"host"

    def on_headers_complete(self) -> None:
        """Begin to answer it, or to wait until the one before it is answered."""
        if len(self.pipeline) >= limits.PIPELINED:
            self._break(400, f"requests: expected at most {limits.PIPELINED} ahead of their answers", "pipelined")
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._break(505, "request: expected HTTP/1.1, got another version", "malformed")
        if self._hosts > 1 or (version == "1.1" and not self._hosts):
            self._break(400, f"Host: expected this header once, got it {self._hosts} times", "malformed")
        super().on_headers_complete()
        self._is_in_headers, self._is_in_body = False, True
        self._body_due = self.loop.time() + limits.BODY_SECONDS
        self._unanswered += 1
        self.cycle.transport = answer = _AnswerTransport(self.transport, self._close_in_order)  # type: ignore[assignment]
        self.cycle.on_response = lambda: self._end_response(answer)
        self.scope["state"]["connection"] = self  # type: ignore[typeddict-item]
        if self.parser.should_upgrade():  # to nothing that is spoken here; the parser takes no more after it
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Count its bytes, each of which earns it time."""
        self._body_bytes += len(body)
        earned = self._body_due + len(body) / limits.BODY_RATE
        self._body_due = min(earned, self.loop.time() + limits.BODY_SECONDS)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The whole request is there."""
        self._is_in_body = False
        super().on_message_complete()

    def _end_response(self, answer: _AnswerTransport) -> None:
        answer.flush()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """The answer was written."""
        self._unanswered -= 1
        self.on_lost = None
        super().on_response_complete()
        if self._closes_when_answered:
            self._close_in_order()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does with what cannot be parsed: the reason is told as JSON."""
        del msg
        self._refuse(*self._breach)

    # Limits

    def _count_line(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > limits.HEADER_BYTES:
            self._break(431, _HEADERS, "headers")

    def _count_header(self, size: int) -> None:
        """Count bytes that came while no header ended: the parser keeps them, and says nothing yet."""
        self._around_bytes += size
        if self._around_bytes > limits.HEADER_BYTES:
            self._refuse(431, _HEADERS, "headers")

    def _break(self, status: int, message: str, reason: str) -> None:
        self._breach = (http.HTTPStatus(status), message, reason)
        raise _Breach

    def _enter(self, phase: str) -> None:
        """Give what is expected next its time; more of the same has no more of it."""
        if phase == self._phase and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._phase = phase
        if phase == "headers":
            self._timer = self.loop.call_later(limits.HEADER_SECONDS, self._end_headers)
        elif phase == "body":
            self._timer = self.loop.call_later(limits.BODY_SECONDS, self._look_at_body)

    def _end_headers(self) -> None:
        self._timer = None
        if self._unanswered:  # of a request behind one that is being answered
            self._enter("headers")
            return
        self._refuse(408, f"request: expected all headers within {limits.HEADER_SECONDS:g} s", "slow")

    def _look_at_body(self) -> None:
        self._timer = self.loop.call_later(_LOOK_SECONDS, self._look_at_body)
        if self.flow.read_paused:  # what came is not taken yet
            self._body_due = self.loop.time() + limits.BODY_SECONDS
        elif self.loop.time() > self._body_due:
            self._refuse(408, f"body: expected at least {limits.BODY_RATE} bytes a second", "slow")

    # The end

    def _refuse(self, status: int, message: str, reason: str) -> None:
        """Answer what cannot be read on, and close; answers to requests before it come first."""
        if self._is_refused:
            return
        self._is_refused = True
        self._on_refused(reason, int(status))
        is_reading = self._is_in_body and self._unanswered > 0
        if self._unanswered - is_reading > 0:
            self.pipeline.clear()
            self._closes_when_answered = True
            return
        if is_reading and self.cycle.response_started:
            self.transport.abort()
            return
        if is_reading:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = error_body(message)
        head = f"HTTP/1.1 {int(status)} {http.HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        length = f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write((head + length).encode() + body)
        self._linger()

    def _close_in_order(self) -> None:
        if self._is_in_body:
            self._linger()
            return
        self._is_refused = True
        self.transport.close()
        self._enter("")
        self._timer = self.loop.call_later(limits.WRITE_SECONDS, self.transport.abort)

    def _linger(self) -> None:
        """Read on for a moment, and drop it: to close now could take the answer from the caller who still sends."""
        self._is_refused = True
        self._enter("")
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing more was asked; one whose last answer was never read at once."""
        if not self.transport.is_closing():
            self.transport.abort()

    def shutdown(self) -> None:
        """End it: at once where it is idle, else with its answer."""
        if self._is_refused and not self._closes_when_answered:
            self.transport.abort()  # its last answer was written, and the rest of what it sends is dropped
        elif self._unanswered:
            self._closes_when_answered = True
            self.cycle.keep_alive = False
        else:
            self._close_in_order()

    def pause_writing(self) -> None:
        """Give a caller who does not read his answer a time to do so."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(limits.WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """He does."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


_HEADERS = f"request: expected at most {limits.HEADER_BYTES} bytes of headers"


def request_headers(scope: Any, names: frozenset[bytes]) -> dict[bytes, bytes]:
    """Those headers of a request that have one of these names; where one stands twice, it has both values."""
    found = dict[bytes, bytes]()
    for name, value in scope["headers"]:
        if name in names:
            found[name] = value if name not in found else b"%b, %b" % (found[name], value)
    return found
