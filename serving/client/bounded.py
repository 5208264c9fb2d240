"""Calls of other libraries that may hang, given up in time; and the deadline of one request with its attempts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from numbers import Integral, Real
from typing import TypeVar

from heatserve.serving.errors import ServingError

T = TypeVar("T")

_LONGEST_TIMEOUT = 1e9  # seconds; gRPC and sockets fail at once on much longer ones
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


def bounded(call: Callable[[], T], seconds: float) -> T:
    """What a call returns, or raises, unless that takes too long; it then goes on in a thread that nothing waits for.

    Raises:
        TimeoutError: it took longer than so many seconds.
    """
    values, errors = list[T](), list[BaseException]()

    def run() -> None:
        try:
            values.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="heatserve-bounded", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if errors:
        raise errors[0]
    if not values:
        raise TimeoutError
    return values[0]


def check_patience(timeout: float, retries: int) -> None:
    """Refuse a time or a number of attempts that no request can have.

    Raises:
        ServingError: names it.
    """
    if not isinstance(timeout, Real) or not 0 < timeout <= _LONGEST_TIMEOUT:
        raise ServingError(f"timeout: expected seconds above 0, at most {_LONGEST_TIMEOUT:g}, got {timeout!r}")
    if not isinstance(retries, Integral) or retries < 0:
        raise ServingError(f"retries: expected a whole number, at least 0, got {retries!r}")


class Patience:
    """The time of one request, whose attempts share it, and the attempts that are left."""

    def __init__(self, timeout: float, retries: int) -> None:
        """Begin now.

        Args:
            timeout: seconds from now on for all attempts together.
            retries: attempts after the first.
        """
        self._end = time.monotonic() + timeout
        self._retries = retries
        self._pause = _FIRST_PAUSE

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def pause(self) -> float | None:
        """Seconds to wait before the next attempt, or None, where no attempt is left or no time for it.

        It is a random time, longer from attempt to attempt, so that callers who lost the same server do not all come
        back at the same moment.
        """
        seconds = self._pause * random.uniform(0.5, 1.0)
        if self._retries <= 0 or seconds >= self.left:
            return None
        self._retries -= 1
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return seconds
