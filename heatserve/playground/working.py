"""Long work in a thread of its own: one at a time, with an end, given up where the caller leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from heatserve.playground.refusals import Refused

Event = dict[str, Any]
Emit = Callable[[Event], None]
"""Hands an event over; raises `GivenUp` where nobody waits for more."""

WORK_SECONDS = 30.0
"""Of one search."""
PATIENCE_SECONDS = 5.0
"""That a search waits for the one before it, which may be the end of one that was left."""
LATE = "The search took longer than {seconds:g} s and was stopped: try again when the machine has less to do."
BUSY = "Another search is running: one at a time. Stop it, or wait until it ends."


class GivenUp(Exception):
    """The caller left, or the time is over."""


class OneAtATime:
    """Does one piece of work at a time; the next waits for a while until the thread of the former has ended."""

    def __init__(self, *, seconds: float = WORK_SECONDS, patience: float = PATIENCE_SECONDS) -> None:
        self._seconds = seconds
        self._patience = patience
        self._free = asyncio.Lock()

    async def run(self, work: Callable[[Emit], None]) -> AsyncGenerator[Event, None]:
        """The events of the work, as they come; closing the generator gives it up at its next event.

        Args:
            work: called in a thread with a function that takes its events.

        Raises:
            Refused: other work goes on, or this one takes too long.
        """
        try:
            await asyncio.wait_for(self._free.acquire(), self._patience)
        except (TimeoutError, asyncio.TimeoutError):
            raise Refused(409, BUSY) from None
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | BaseException | None]()
        is_left, end = threading.Event(), time.monotonic() + self._seconds

        def emit(event: Event) -> None:
            if is_left.is_set() or time.monotonic() > end:
                raise GivenUp
            loop.call_soon_threadsafe(events.put_nowait, event)

        def ended(last: BaseException | None) -> None:
            self._free.release()
            events.put_nowait(last)

        def run() -> None:
            last: BaseException | None = None
            try:
                work(emit)
            except GivenUp:
                last = Refused(504, LATE.format(seconds=self._seconds))
            except BaseException as error:
                last = error
            with suppress(RuntimeError):  # the playground has ended
                loop.call_soon_threadsafe(ended, last)

        threading.Thread(target=run, name="heatserve-playground", daemon=True).start()
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            is_left.set()
