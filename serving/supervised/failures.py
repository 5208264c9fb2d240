"""How often something that failed is started again, and after how long: pauses that grow, and an end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RestartRule:
    """When what failed is started again."""

    first_pause: float = 0.1
    """Seconds until the first start; each failure more doubles them."""
    longest_pause: float = 10.0
    most_failures: int = 5
    """It is given up where it fails so often"""
    within: float = 60.0
    """within so many seconds, or where for as long no start succeeds."""


USUAL_RULE = RestartRule()
"""Within 0.1 s at first, and given up at five failures within a minute."""


class Failures:
    """The failures of one thing that is to be kept running."""

    def __init__(self, rule: RestartRule) -> None:
        """None so far."""
        self._rule = rule
        self._lives = deque[float](maxlen=rule.most_failures)
        self._starts = 0
        self._down_since = 0.0

    def of_life(self, now: float) -> float | None:
        """It ran, and failed: the seconds until the next start, or None where it is given up.

        Args:
            now: seconds of a clock that only grows.
        """
        while self._lives and now - self._lives[0] >= self._rule.within:
            self._lives.popleft()
        self._lives.append(now)
        self._starts, self._down_since = 0, now
        return None if len(self._lives) == self._rule.most_failures else self._pause(len(self._lives) - 1)

    def of_start(self, now: float) -> float | None:
        """It could not be started: as `of_life`. One that never ran is given up after `most_failures` starts."""
        self._starts += 1
        if self._down_since == 0.0:
            return None if self._starts == self._rule.most_failures else self._pause(self._starts - 1)
        return None if now - self._down_since >= self._rule.within else self._pause(self._starts)

    @property
    def described(self) -> str:
        """How often it failed, where it was more than once: words that the last problem follows."""
        times = max(self._starts, len(self._lives))
        if times < 2:
            return ""
        kind = "failed starts" if self._starts else f"failures within {self._rule.within:g} s"
        return f"given up after {times} {kind}; the last one: "

    def _pause(self, before: int) -> float:
        return min(self._rule.first_pause * 2.0**before, self._rule.longest_pause)
