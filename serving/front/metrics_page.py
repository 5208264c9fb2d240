"""The page of metrics, at a port of its own: what all processes of heatserve counted, and Triton's own text."""

from __future__ import annotations

import asyncio
from pathlib import Path

from heatserve.serving.front.app import FrontApp
from heatserve.serving.front.refusals import FrontAnswer
from heatserve.serving.front.routes import LIVE_PATH, Route, route_of
from heatserve.serving.front.served import Served
from heatserve.serving.front.tokens import Tokens
from heatserve.serving.observed.page import CONTENT_TYPE, page
from heatserve.serving.observed.recorder import Recorder

PAUSE_SECONDS = 0.2
"""Between two pages: to make one takes milliseconds, in which no request is answered."""

_TRITON_SECONDS = 1.0
_TRITON_BYTES = 2**24
_OK = b" 200 "


class MetricsApp(FrontApp):
    """Answers `/metrics`, and whether the front lives: at a port that no crowd of callers fills."""

    def __init__(self, served: Served, *, folder: Path | None, tokens: Tokens | None, recorder: Recorder) -> None:
        """Describe it.

        Args:
            served: says where Triton's own page is.
            folder: in which the processes count.
            tokens: which a request must bring one of; None: none.
            recorder: counts requests.
        """
        super().__init__(served, tokens=tokens, rates=None, recorder=recorder, log=None)
        self._folder = folder
        self._next: asyncio.Task[FrontAnswer] | None = None
        self._making = asyncio.Lock()
        self._pause_ends = 0.0

    def route(self, path: bytes) -> Route | None:
        """See `FrontApp.route`."""
        return Route("metrics") if path == b"/metrics" else route_of(path) if path == LIVE_PATH else None

    async def describe(self, route: Route) -> FrontAnswer:
        """Both pages, one after the other; without Triton's where it does not answer. All who wait get the same."""
        if route.name != "metrics":
            return await super().describe(route)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._made())
        return await asyncio.shield(self._next)

    async def _made(self) -> FrontAnswer:
        """A page of what is counted once the page before it was made a while ago."""
        loop = asyncio.get_running_loop()
        async with self._making:
            await asyncio.sleep(self._pause_ends - loop.time())
            self._next = None  # who asks from now on gets a later one
            ours = await asyncio.to_thread(page, self._folder) if self._folder else ""
            self._pause_ends = loop.time() + PAUSE_SECONDS
        try:
            triton = await asyncio.wait_for(_triton_page(self._served.state.metrics), _TRITON_SECONDS)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            triton = b""
        return FrontAnswer(200, ours.encode() + triton, CONTENT_TYPE.encode())


async def _triton_page(address: str) -> bytes:
    """What Triton says at its own port of metrics, which is on this machine and speaks HTTP/1.1."""
    if not address:
        return b""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=_TRITON_BYTES)
    try:
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        status, _, fields = head.partition(b"\r\n")
        lengths = [line for line in fields.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if _OK not in status or len(lengths) != 1:
            raise ValueError(status)
        return await reader.readexactly(min(int(lengths[0].partition(b":")[2]), _TRITON_BYTES))
    finally:
        writer.close()
