"""Telling of the alarms that the shadow audit raises: it runs in a process of Triton's, and an operator reads ours."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from heatserve.serving.shadow.folder import Alarm, alarms_in

_LOOK_SECONDS = 1.0


class AlarmWatch:
    """A thread that tells of each alarm once, whatever process raised it."""

    def __init__(self, folder: Path, on_alarm: Callable[[Alarm], object]) -> None:
        """Describe it; `start` begins.

        Args:
            folder: of the audit; there may be none yet.
            on_alarm: called from the thread.
        """
        self._folder = folder
        self._on_alarm = on_alarm
        self._told = set[str]()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heatserve-alarms", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look for the last time, and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.wait(_LOOK_SECONDS)
            with suppress(OSError):  # a temporary folder that something cleans up
                self._look()

    def _look(self) -> None:
        for name, alarm in alarms_in(self._folder).items():
            if name not in self._told:
                self._told.add(name)
                self._on_alarm(alarm)
