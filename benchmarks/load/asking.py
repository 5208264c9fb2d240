"""Asks a server in a closed or an open loop. It runs in a process of its own (`heatserve.benchmarks.load.helper`).

In an open loop each request has a moment at which it is to start, drawn before anything is sent, and its latency counts
from there: whoever waits for a slow server before asking again measures only the requests that the server let happen
("coordinated omission").
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from numpy.typing import NDArray

from heatserve.serving.client.failures import OVERLOADED
from heatserve.serving.tuning.closed_loop import GRPC_METHOD

NO_ANSWER = "no answer"
"""The kind of error of a request that was not answered `PATIENCE` seconds after the window."""
PATIENCE = 30.0
_CONNECTIONS = 256
"""Most connections over HTTP of one process; a request that finds none free waits, and that counts."""
_FULL = (*OVERLOADED, "queue is full")

Floats = NDArray[np.float64]
Ask = Callable[[bytes], Awaitable[str]]
"""Sends a message and waits for the answer; gives the kind of error, or nothing."""


@dataclass(frozen=True)
class Stream:
    """What one process asks: with so many callers who wait for their answers, or at the moments of `arrivals`."""

    url: str
    messages: tuple[bytes, ...]
    callers: int = 0
    arrivals: Floats | None = None
    """Seconds after the window's begin, ascending; those before it, negative, warm up."""


@dataclass(frozen=True)
class Overheard:
    """What one process heard of the requests that were to start in the window, [n] each, in seconds of the clock."""

    intended: Floats
    sent: Floats
    answered: Floats
    within: int
    """Answers that came within the window, also to requests that started before it."""
    errors: Mapping[str, int]
    cores: float
    """What this process took."""

    @property
    def latencies(self) -> Floats:
        """Seconds from the moment at which a request was to start until its answer."""
        return self.answered - self.intended


def arrivals_at(rate: float, *, begin: float, end: float, random: np.random.Generator) -> Floats:
    """The moments of a Poisson process of `rate` a second, from `begin` to `end`, ascending."""
    count = random.poisson(rate * (end - begin))
    return np.sort(random.uniform(begin, end, count))


def ask_stream(stream: Stream, begin: float, seconds: float) -> Overheard:
    """Ask from now on until the window's end, and wait for what is on the way then.

    Args:
        stream: what, and when.
        begin: of the window, on `time.perf_counter`, which on Linux all processes share.
        seconds: its length.
    """
    # The usual selector of asyncio waits in whole milliseconds, about as long as a request takes.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with closing(loop):
        return loop.run_until_complete(_ask(stream, begin, begin + seconds))


@dataclass
class _Notes:
    """What was heard so far: (intended, sent, answered, kind of error) of each request."""

    ask: Ask
    heard: list[tuple[float, float, float, str]] = field(default_factory=list)

    async def request(self, intended: float, message: bytes) -> None:
        sent = time.perf_counter()
        try:
            error = await self.ask(message)
        except asyncio.CancelledError:
            error = NO_ANSWER
        self.heard.append((intended, sent, time.perf_counter(), error))


async def _ask(stream: Stream, begin: float, end: float) -> Overheard:
    cores = asyncio.ensure_future(_cores_between(begin, end))
    async with _connected(stream.url) as ask:
        notes = _Notes(ask)
        if stream.arrivals is None:
            tasks = {asyncio.ensure_future(_caller(notes, stream, first, end)) for first in range(stream.callers)}
        else:
            tasks = {task async for task in _arriving(notes, stream.messages, begin + stream.arrivals)}
        if tasks:
            await asyncio.wait(tasks, timeout=end + PATIENCE - time.perf_counter())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
    return _overheard(notes, begin, end, await cores)


async def _caller(notes: _Notes, stream: Stream, first: int, end: float) -> None:
    """Ask, wait for the answer, and ask again."""
    turn = first
    while (now := time.perf_counter()) < end:
        await notes.request(now, stream.messages[turn % len(stream.messages)])
        turn += stream.callers


async def _arriving(notes: _Notes, messages: tuple[bytes, ...], moments: Floats) -> AsyncIterator[asyncio.Task[None]]:
    """Start each request at its moment, or as soon after it as this process can, whatever became of those before."""
    for turn, moment in enumerate(moments.tolist()):
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))
        yield asyncio.ensure_future(notes.request(moment, messages[turn % len(messages)]))


async def _cores_between(begin: float, end: float) -> float:
    await asyncio.sleep(begin - time.perf_counter())
    before, start = time.process_time(), time.perf_counter()
    await asyncio.sleep(end - start)
    return (time.process_time() - before) / (time.perf_counter() - start)


def _overheard(notes: _Notes, begin: float, end: float, cores: float) -> Overheard:
    counted = [one for one in notes.heard if begin <= one[0] < end]
    times = np.array([one[:3] for one in counted if not one[3]], np.float64).reshape(-1, 3)
    within = sum(1 for *_, answered, error in notes.heard if not error and begin <= answered < end)
    errors = Counter(error for *_, answered, error in notes.heard if error and answered >= begin)
    return Overheard(times[:, 0], times[:, 1], times[:, 2], within, dict(errors), cores)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Ask]:
    scheme, _, address = url.partition("://")
    if scheme == "grpc":
        async with grpc.aio.insecure_channel(address) as channel:
            yield _asking_grpc(channel)
    else:
        connections = _HttpConnections(address)
        try:
            yield connections.ask
        finally:
            connections.close()


def _asking_grpc(channel: grpc.aio.Channel) -> Ask:
    call = channel.unary_unary(GRPC_METHOD)

    async def ask(message: bytes) -> str:
        try:
            await call(message)
        except grpc.aio.AioRpcError as error:
            return _kind(error.code().name, error.details() or "")
        return ""

    return ask


class _HttpConnections:
    """Connections that stay open and are used again; a new one where all are busy."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._free = asyncio.Semaphore(_CONNECTIONS)

    async def ask(self, message: bytes) -> str:
        async with self._free:
            try:
                connection = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
            except OSError:
                return "no connection"
            reader, writer = connection
            with _closed_unless_done(writer) as done:
                try:
                    writer.write(message)
                    status, body = await _http_answer(reader)
                except (OSError, asyncio.IncompleteReadError):
                    return "connection lost"
                done()
            self._idle.append(connection)
        return "" if status == 200 else _kind(f"HTTP {status}", body.decode(errors="replace"))

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


@contextmanager
def _closed_unless_done(writer: asyncio.StreamWriter) -> Iterator[Callable[[], None]]:
    """Close a connection on which an answer may still be under way."""
    finished = list[bool]()
    try:
        yield lambda: finished.append(True)
    finally:
        if not finished:
            writer.close()


async def _http_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the body of an answer that says how long it is, as all of Triton's do."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    (length,) = (line.partition(b":")[2] for line in lines if line.lower().startswith(b"content-length:"))
    return int(first.split()[1]), await reader.readexactly(int(length))


def _kind(status: str, message: str) -> str:
    return "overloaded" if any(words in message for words in _FULL) else status
