"""Counting in one process, for a page of metrics that another one serves.

Each process of a server, and each life of it, counts in a file of its own (`series`) in one folder, which `page` adds
up. So a count survives the process that counted it, and no process waits for another.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heatserve.serving.observed.families import Family
from heatserve.serving.observed.series import Key, SeriesFile

FOLDER_VARIABLE = "HEATSERVE_METRICS"
"""The environment variable that names the folder to the processes of a server."""

_MOST_SERIES = 2_000  # of one process; what comes after them is not counted


class Recorder:
    """What one process counts, for any number of threads. Not for use after a fork."""

    def __init__(self, folder: Path | None = None) -> None:
        """Count from 0.

        Args:
            folder: that of the server's metrics; None: what is counted is seen by nobody.
        """
        self._file = SeriesFile(folder)
        self._places = dict[Key, int]()
        self._values = dict[Key, float]()
        self._bounds = dict[str, NDArray[np.float64]]()
        self._lock = threading.Lock()

    @classmethod
    def of_environment(cls) -> Recorder:
        """The recorder of a process that a server started, into the folder that `FOLDER_VARIABLE` names."""
        folder = os.environ.get(FOLDER_VARIABLE)
        return cls(Path(folder) if folder else None)

    def add(self, family: Family, *labels: str, by: float = 1) -> None:
        """Add to a counter, with the values of its labels in their order."""
        key = (family.name, *labels)
        with self._lock:
            self._add(family, key, by)

    def set(self, family: Family, value: float, *labels: str) -> None:
        """Set a gauge; of all processes that set one, the last counts."""
        key = (family.name, *labels)
        with self._lock:
            place = self._place(family, key)
            if place is not None:
                self._file.write(place, float(value), time.time())

    def observe(self, family: Family, value: float, *labels: str, times: int = 1) -> None:
        """Count a value in a histogram, which is not NaN, once or several times."""
        bucket = bound_text(family, bisect_left(family.buckets, value))
        with self._lock:
            self._add(family, (f"{family.name}_bucket", *labels, bucket), times)
            self._add(family, (f"{family.name}_sum", *labels), value * times)

    def observe_all(self, family: Family, values: ArrayLike, *labels: str) -> None:
        """Count many values in a histogram, none of which is NaN."""
        numbers = np.asarray(values, np.float64).ravel()
        if not len(numbers):
            return
        if len(numbers) == 1:
            self.observe(family, float(numbers[0]), *labels)
            return
        bounds = self._bounds.get(family.name)
        if bounds is None:
            bounds = self._bounds[family.name] = np.array(family.buckets)
        counts = np.bincount(bounds.searchsorted(numbers)).tolist()
        with self._lock:
            for index, count in enumerate(counts):
                if count:
                    self._add(family, (f"{family.name}_bucket", *labels, bound_text(family, index)), count)
            self._add(family, (f"{family.name}_sum", *labels), float(numbers.sum()))

    def _add(self, family: Family, key: Key, by: float) -> None:
        place = self._place(family, key)
        if place is not None:
            value = self._values[key] = self._values[key] + by
            self._file.write(place, value)

    def _place(self, family: Family, key: Key) -> int | None:
        """Where the number of a series lies; None: there is no room for it now."""
        place = self._places.get(key)
        if place is not None:
            return place
        given = len(key) - 1 - key[0].endswith("_bucket")
        if given != len(family.labels):
            raise ValueError(f"{family.name}: expected values of {family.labels}, got {key[1:]}")
        if len(self._places) < _MOST_SERIES and (place := self._file.slot(key)) is not None:
            self._places[key], self._values[key] = place, 0.0
        return place


def bound_text(family: Family, index: int) -> str:
    """The bound of a bucket as its label `le` has it."""
    return f"{family.buckets[index]!r}" if index < len(family.buckets) else "+Inf"
