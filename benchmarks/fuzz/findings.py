"""What should not have been, counted by kind, with examples that can be sent again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from heatserve.benchmarks.wire import HttpAnswer

_INSIDE = re.compile(
    rb"Traceback|\.py\b|\bline \d+,|/tmp/|/home/|/root/|/usr/lib|heatserve-\w{8}|/dev/shm|0x[0-9a-f]{8}"
)
_EXAMPLES_OF_A_KIND = 4
_SHOWN_BYTES = 300
_MOST_UNANSWERED = 50
UNANSWERED = "the next valid request was not answered"

_T = TypeVar("_T")


class FuzzFindings:
    """Faults and valid requests, counted by many threads."""

    def __init__(self) -> None:
        """None yet."""
        self.faults: Counter[str] = Counter()
        self.examples: list[str] = []
        self.valid = 0
        self._is_interrupted = False
        self._lock = Lock()

    def fault(self, kind: str, which: str, content: bytes = b"") -> None:
        """Count a fault.

        Args:
            kind: what it is.
            which: what was sent: protocol and number, or a name.
            content: the start of it is shown.
        """
        with self._lock:
            self.faults[kind] += 1
            if self.faults[kind] <= _EXAMPLES_OF_A_KIND:
                shown = repr(content[:_SHOWN_BYTES])
                self.examples.append(f"{kind}: {which}" + (f": {shown}" if content else ""))

    @property
    def is_hopeless(self) -> bool:
        """Whether it is no use to go on: the server answers no more, or the command was interrupted."""
        return self._is_interrupted or self.faults[UNANSWERED] >= _MOST_UNANSWERED

    def by_callers(self, work: Callable[[int], _T], callers: int) -> list[_T]:
        """What `work` finds for each number below `callers`, in as many threads, which an interruption ends soon."""
        with ThreadPoolExecutor(callers) as pool:
            try:
                return [*pool.map(work, range(callers))]
            except BaseException:
                self._is_interrupted = True
                raise

    def answered_valid(self) -> None:
        """Count a valid request that was answered as it must be."""
        with self._lock:
            self.valid += 1


def tells_of_inside(text: bytes) -> bool:
    """Whether an error tells a stranger of files, memory or code."""
    return _INSIDE.search(text) is not None


def http_fault(answer: HttpAnswer) -> str | None:
    """What is wrong with an answer over HTTP by itself; None: nothing."""
    if not answer.outcome.isdigit() or answer.outcome.startswith("2"):
        return None
    if answer.outcome == "500":
        return "a status 500"
    if tells_of_inside(answer.body):
        return "an error that tells of the inside"
    return None
