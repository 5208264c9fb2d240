"""Several ways to do one thing, timed in one run: blocks of requests, with another order of the ways in every round.

So a drift (of clocks, caches, other processes) affects all ways alike, and ratios are taken within each round. A block
begins with a pause, in which threads of the previous way stop spinning for work, and with requests that do not count: a
core that has slept answers the first ones up to twice as slowly, which affects the way with more operators most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np

from heatserve.certification.progress import Progress, unseen

BLOCK = 10
"""Counted requests of one way in a row."""
_LONGEST = 0.2
"""Seconds after which a block ends, with at least one counted request: slow ways need fewer."""
_PAUSE = 0.02
"""Seconds between two blocks."""
_WARM_UP = 0.02
"""Seconds of requests that do not count at the beginning of a block, one request at least."""

Way = Callable[[], object]
"""Answers one request."""

Times = list[list[float]]
"""Milliseconds of one way: one list a round."""

Name = TypeVar("Name", bound=Hashable)


def interleave(
    ways: Mapping[Name, Way], *, rounds: int, seed: int, progress: Progress = unseen, description: str = "timing"
) -> dict[Name, Times]:
    """Milliseconds of every request that counts: for each way, one list a round.

    Args:
        ways: by name.
        rounds: how many count; one more, before them, warms up.
        seed: decides the orders.
        progress: shows how many rounds are done, the first included.
        description: what is timed, in a few words, for `progress`.
    """
    random, names = np.random.default_rng(seed), list(ways)
    times: dict[Name, Times] = {name: [] for name in names}
    for round_ in progress(range(-1, rounds), rounds + 1, description):
        for index in random.permutation(len(names)):
            block = _block(ways[names[index]])
            times[names[index]] += [block] if round_ >= 0 else []
    return times


def quantiles(times: Times) -> dict[str, float]:
    """p50, p90 and p99 of all requests of a way, in milliseconds."""
    return {f"p{q}": float(np.percentile(np.concatenate(times), q)) for q in (50, 90, 99)}


def ratio(times: Times, base: Times) -> dict[str, float]:
    """p25, p50 and p75 over the rounds of the median of a round divided by that of `base` in the same round."""
    ratios = [np.median(block) / np.median(other) for block, other in zip(times, base, strict=True)]
    return {f"p{q}": float(np.percentile(ratios, q)) for q in (25, 50, 75)}


def rounds_for(requests: int) -> int:
    """How many rounds it takes until `requests` of a way have counted, unless it is slow."""
    return -(-requests // BLOCK)


def _block(way: Way) -> list[float]:
    time.sleep(_PAUSE)
    start = time.perf_counter()
    way()
    while time.perf_counter() < start + _WARM_UP:
        way()
    start, times = time.perf_counter(), [_timed(way)]
    while len(times) < BLOCK and time.perf_counter() < start + _LONGEST:
        times.append(_timed(way))
    return times


def _timed(way: Way) -> float:
    start = time.perf_counter()
    way()
    return 1000 * (time.perf_counter() - start)
