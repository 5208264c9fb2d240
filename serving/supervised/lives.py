"""Keeps a Triton up: one life after another, each on models whose cards were verified anew."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from heatserve.certification.errors import HeatserveError
from heatserve.serving.errors import CrashedError, ServingError
from heatserve.serving.supervised.failures import USUAL_RULE, Failures, RestartRule
from heatserve.serving.supervised.state import IS_RESTARTING, Cause, Event, Recovery, Restart, State
from heatserve.serving.triton.server import TritonServer

_LOOK_SECONDS = 0.05
KEPT_LOGS = 3
"""Logs of Tritons that failed, the newest; older ones are removed."""


class Lives:
    """A thread that starts a Triton, and another one where that fails.

    Attributes:
        ended: set once there is no Triton and will be none; `error` says why, where nobody asked for it.
        error: what a life, or the last start, ended with.
        triton: the one that runs, or ran last; None before the first is ready.
    """

    def __init__(
        self,
        create: Callable[[], TritonServer],
        *,
        rule: RestartRule | None,
        on_state: Callable[[State], object],
        on_event: Callable[[Event], object],
    ) -> None:
        """Describe them; `start` begins.

        Args:
            create: makes a Triton, not started yet.
            rule: when it is started again; None: never.
            on_state: called from the thread with each new state.
            on_event: called from the thread where one fails, and where the next one is ready.
        """
        self._create = create
        self._rule = rule
        self._on_state = on_state
        self._on_event = on_event
        self._stopping, self._answered = threading.Event(), threading.Event()
        self._hurried = threading.Event()
        self._current: TritonServer | None = None
        self._down_since: float | None = None
        self._failed_logs = deque[Path]()
        self._thread = threading.Thread(target=self._run, name="heatserve-supervise", daemon=True)
        self.ended = threading.Event()
        self.error: Exception | None = None
        self.triton: TritonServer | None = None

    def start(self) -> TritonServer:
        """Begin, and wait for the first one that is ready.

        Raises:
            HeatserveError: it cannot be started. A crash at the start counts as a failure, after which another is.
        """
        self._thread.start()
        self._answered.wait()
        if self.triton is None:
            self._thread.join()
            raise self.error or ServingError("Triton was ended while it started")
        return self.triton

    def stop(self) -> None:
        """End it in order: requests in flight are answered first. It may be called again, after an interruption."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def hurry(self) -> None:
        """End it at once."""
        self._hurried.set()
        self._stopping.set()
        if self._current is not None:
            self._current.hurry()

    def _run(self) -> None:
        try:
            self._keep()
        except Exception as error:  # whatever it is, who waits is to know
            self.error = error
        finally:
            self.ended.set()
            self._answered.set()

    def _keep(self) -> None:
        failures = Failures(self._rule or USUAL_RULE)
        while not self._stopping.is_set():
            self._current = triton = self._create()
            if self._hurried.is_set():  # by one who saw the one before
                return
            try:
                self._live(triton)
            except HeatserveError as error:
                if not self._stopping.is_set():
                    self._after(triton, error, failures)

    def _live(self, triton: TritonServer) -> None:
        """One life, until it fails or is to end."""
        with triton:
            self.triton = triton
            address = triton.endpoints.grpc_url.partition("://")[2]
            models = tuple(model.name for model in triton.models)
            self._on_state(State(True, "", address, triton.endpoints.metrics_url, models))
            if self._down_since is not None:
                self._on_event(Recovery("triton", time.monotonic() - self._down_since))
            self._down_since = None
            self._answered.set()
            while not self._stopping.wait(_LOOK_SECONDS):
                if triton.problem or triton.has_ended:
                    self._is_down()
                    triton.wait()

    def _is_down(self) -> None:
        self._on_state(IS_RESTARTING)
        if self._down_since is None:
            self._down_since = time.monotonic()

    def _after(self, triton: TritonServer, error: HeatserveError, failures: Failures) -> None:
        """After a failure: wait for the next start.

        Raises:
            HeatserveError: there will be none.
        """
        self._is_down()
        self._keep_log(triton)
        ran = self.triton is triton
        pause = None
        if self._rule and ran:
            pause = failures.of_life(time.monotonic())
        elif self._rule and (self.triton is not None or isinstance(error, CrashedError)):
            pause = failures.of_start(time.monotonic())
        if pause is None:
            raise ServingError(f"{failures.described}{error}") if failures.described else error
        cause: Cause = "start" if not ran else "unhealthy" if triton.problem else "ended"
        self._on_event(Restart("triton", cause, str(error), pause))
        self._stopping.wait(pause)

    def _keep_log(self, triton: TritonServer) -> None:
        if log := getattr(triton, "log", None):  # it came so far as to have one
            self._failed_logs.append(log)
        while len(self._failed_logs) > KEPT_LOGS:
            self._failed_logs.popleft().unlink(missing_ok=True)
