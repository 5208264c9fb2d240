"""Starting one kind of process again: after which pause, until when, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from heatserve.certification.errors import HeatserveError
from heatserve.serving.errors import CrashedError, ServingError
from heatserve.serving.supervised.events import Cause, Event, Kept, Recovery, Restart
from heatserve.serving.supervised.failures import USUAL_RULE, Failures, RestartRule


class Restarts:
    """What became of one kind of process, one after another."""

    def __init__(self, process: Kept, rule: RestartRule | None, on_event: Callable[[Event], object]) -> None:
        """None has run so far.

        Args:
            process: which kind.
            rule: when it is started again; None: never.
            on_event: told of each failure that another start follows, and of each recovery.
        """
        self._process = process
        self._rule = rule
        self._on_event = on_event
        self._failures = Failures(rule or USUAL_RULE)
        self._has_run = False
        self._down_since: float | None = None

    def is_up(self) -> None:
        """One has started."""
        self._has_run = True
        if self._down_since is not None:
            self._on_event(Recovery(self._process, time.monotonic() - self._down_since))
        self._down_since = None

    def is_down(self) -> None:
        """One is about to be ended, or has ended."""
        if self._down_since is None:
            self._down_since = time.monotonic()

    def pause(self, cause: Cause, error: HeatserveError) -> float:
        """The seconds until the next start.

        Args:
            cause: how it failed.
            error: says what was expected and found.

        Raises:
            HeatserveError: there will be none: it failed too often, or never ran, for a reason that stays.
        """
        self.is_down()
        pause = None
        if self._rule and cause != "start":
            pause = self._failures.of_life(time.monotonic())
        elif self._rule and (self._has_run or isinstance(error, CrashedError)):
            pause = self._failures.of_start(time.monotonic())
        if pause is None:
            raise ServingError(f"{self._failures.described}{error}") if self._failures.described else error
        self._on_event(Restart(self._process, cause, str(error), pause))
        return pause
