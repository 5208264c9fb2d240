"""Keeps a Triton up: one after another, each on models whose cards were verified anew."""

from __future__ import annotations

import threading
from collections.abc import Callable

from heatserve.certification.errors import HeatserveError
from heatserve.serving.errors import ServingError
from heatserve.serving.supervised.events import Cause, Event
from heatserve.serving.supervised.failures import RestartRule
from heatserve.serving.supervised.restarts import Restarts
from heatserve.serving.triton.server import TritonServer

_LOOK_SECONDS = 0.05


class KeptTriton:
    """A thread that starts a Triton, and another one where that fails.

    Attributes:
        server: the one that runs, or ran last; None before the first is ready.
    """

    def __init__(
        self,
        create: Callable[[], TritonServer],
        *,
        rule: RestartRule | None,
        on_change: Callable[[TritonServer | None], object],
        on_event: Callable[[Event], object],
        on_end: Callable[[Exception], object],
    ) -> None:
        """Describe it; `start` begins.

        Args:
            create: makes a Triton, not started yet.
            rule: when it is started again; None: never.
            on_change: called from the thread with each one that is ready, and with None where it does not answer.
            on_event: called from the thread where one fails, and where the next one is ready.
            on_end: called from the thread where one fails, and no other is started.
        """
        self._create = create
        self._restarts = Restarts("triton", rule, on_event)
        self._on_change = on_change
        self._on_end = on_end
        self._stopping, self._first = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._current: TritonServer | None = None
        self._thread = threading.Thread(target=self._run, name="heatserve-keep-triton", daemon=True)
        self.server: TritonServer | None = None

    def start(self) -> None:
        """Begin; `wait_until_ready` waits."""
        self._thread.start()

    def wait_until_ready(self) -> TritonServer:
        """Wait for the first one that is ready.

        Raises:
            HeatserveError: there is none. A crash at its start is no reason yet: another is started.
        """
        self._first.wait()
        if self.server is None:
            raise self._error or ServingError("Triton was ended while it started")
        return self.server

    def stop(self) -> None:
        """End it in order: requests in flight are answered first. It may be called again, after an interruption.

        One that only starts has none, and is ended at once.
        """
        self._stopping.set()
        starting = self._current
        if starting is not None and starting is not self.server:
            starting.hurry()
        if self._thread.ident is not None:
            self._thread.join()

    def hurry(self) -> None:
        """End it at once."""
        self._stopping.set()
        if self._current is not None:
            self._current.hurry()

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
            self._current = triton = self._create()
            if self._stopping.is_set():  # by one who saw the one before
                return
            try:
                self._live(triton)
            except HeatserveError as error:
                if not self._stopping.is_set():
                    self._after(triton, error)

    def _live(self, triton: TritonServer) -> None:
        """One life, until it fails or is to end."""
        with triton:
            self.server = triton
            self._on_change(triton)
            self._restarts.is_up()
            self._first.set()
            while not self._stopping.wait(_LOOK_SECONDS):
                if triton.problem or triton.has_ended:
                    self._on_change(None)
                    self._restarts.is_down()
                    triton.wait()

    def _after(self, triton: TritonServer, error: HeatserveError) -> None:
        """After a failure: wait for the next start.

        Raises:
            HeatserveError: there will be none.
        """
        self._on_change(None)
        cause: Cause = "start" if self.server is not triton else "unhealthy" if triton.problem else "ended"
        self._stopping.wait(self._restarts.pause(cause, error))
