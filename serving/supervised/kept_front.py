"""Keeps the front up: one process after another on the same sockets, at which callers wait meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from heatserve.serving.errors import ServingError
from heatserve.serving.front.process import Front, FrontSockets
from heatserve.serving.front.state import FrontState
from heatserve.serving.supervised.events import Cause, Event
from heatserve.serving.supervised.failures import RestartRule
from heatserve.serving.supervised.restarts import Restarts
from heatserve.serving.triton.processes import process_of
from heatserve.serving.triton.watch import LOOK_SECONDS, STOPPED_LOOKS

MOST_SILENT_SECONDS = 10.0
"""A front says every second that it lives; one that does not for so long is ended."""
_LOOK_SECONDS = 0.05


class KeptFront:
    """A thread that starts a front, tells it what is behind it, and starts another one where it fails."""

    def __init__(
        self,
        create: Callable[[], Front],
        sockets: FrontSockets,
        *,
        rule: RestartRule | None,
        on_event: Callable[[Event], object],
        on_end: Callable[[Exception], object],
    ) -> None:
        """Describe it; `start` begins.

        Args:
            create: makes a front on the sockets, not started yet.
            sockets: closed once it drains.
            rule: when it is started again; None: never.
            on_event: called from the thread where one fails, and where the next one is up.
            on_end: called from the thread where one fails, and no other is started.
        """
        self._create = create
        self._sockets = sockets
        self._restarts = Restarts("front", rule, on_event)
        self._on_end = on_end
        self._stopping, self._first = threading.Event(), threading.Event()
        self._telling = threading.Lock()
        self._state = FrontState()
        self._front: Front | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="heatserve-keep-front", daemon=True)

    def start(self) -> None:
        """Begin, and wait until it accepts connections.

        Raises:
            ServingError: it did not start.
        """
        self._thread.start()
        self._first.wait()
        if self._error is not None:
            raise self._error

    def tell(self, state: FrontState) -> None:
        """Tell it, and each one after it, what is behind it now."""
        with self._telling:
            self._state = state
            if self._front is not None:
                self._front.tell(state)

    def stop(self) -> None:
        """Have it answer what is in flight, and end. It may be called again, after an interruption."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def hurry(self) -> None:
        """End it at once."""
        self._stopping.set()
        if self._front is not None:
            self._front.hurry()

    def _run(self) -> None:
        try:
            self._keep()
        except Exception as error:  # whatever it is, who waits is to know
            self._error = error
            self._on_end(error)
        finally:
            self._first.set()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            front = self._create()
            try:
                front.start(self._state)
                self._is_up(front)
                self._watch(front)
            except ServingError as error:
                cause: Cause = "start" if self._front is not front else "ended" if front.wait(0) else "unhealthy"
                front.kill()
                if not self._stopping.is_set():
                    self._stopping.wait(self._restarts.pause(cause, error))
            else:
                self._sockets.close()  # who has not been accepted is refused now, and not when all has ended
                front.drain()

    def _is_up(self, front: Front) -> None:
        with self._telling:
            self._front = front
            front.tell(self._state)
        self._restarts.is_up()
        self._first.set()

    def _watch(self, front: Front) -> None:
        """Wait until a front is to end.

        Raises:
            ServingError: something is wrong with it before.
        """
        process, stopped, looked = process_of(front.pid), 0, time.monotonic()
        while not self._stopping.wait(_LOOK_SECONDS):
            if front.wait(0):
                raise ServingError(f"front: expected a running process, found that it {front.ending()}")
            if front.silent_seconds() > MOST_SILENT_SECONDS:
                raise ServingError(
                    f"front: expected it to say that it lives, heard nothing for {MOST_SILENT_SECONDS:g} s"
                )
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                stopped = stopped + 1 if process.look().is_stopped else 0
                if stopped >= STOPPED_LOOKS:
                    raise ServingError(f"front: expected a running process, found that {process.pid} is stopped")
