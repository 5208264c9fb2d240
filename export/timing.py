"""Latencies of several ways to do the same work, interleaved in one run, so that all see the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Way = Callable[[], object]
"""Does the work once."""

BLOCK = 10
"""Calls of one way in a row; one more, the first, is not counted: it finds the caches of the others."""
PAUSE = 0.02
"""Seconds between blocks, in which the threads of the previous way stop spinning for work."""


def interleaved(
    ways: Mapping[str, Way], *, calls: int, on_round: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each call, by way: whole blocks of `BLOCK`, at least `calls` of them, after a round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(-1, -(-calls // BLOCK)):  # round −1 warms up
        for name, way in ways.items():
            time.sleep(PAUSE)
            times = [_timed(way) for _ in range(BLOCK + 1)][1:]
            seconds[name] += times if round_ >= 0 else []
        on_round()
    return seconds


def _timed(way: Way) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start
