"""Interleaved timing: what counts, in which order, and what a ratio is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, pairwise
from typing import TypeVar

from heatserve.export.runtime.timing import BLOCK, interleave, quantiles, ratio, rounds_for

T = TypeVar("T")


def test_every_round_has_a_block_of_each_way_in_another_order() -> None:
    called: list[str] = []
    turns: list[int] = []

    def way(name: str) -> Callable[[], object]:
        def request() -> None:
            called.append(name)
            time.sleep(0.001)

        return request

    def counted(items: Iterable[T], total: int, description: str) -> Iterator[T]:
        assert (total, description) == (7, "three ways")  # the first round warms up
        for item in items:
            yield item
            turns.append(len(called))

    ways = {name: way(name) for name in "abc"}
    times = interleave(ways, rounds=6, seed=0, progress=counted, description="three ways")
    assert list(times) == ["a", "b", "c"]
    assert all([len(block) for block in blocks] == [BLOCK] * 6 for blocks in times.values())
    assert len(turns) == 7
    orders = ["".join(name for name, _ in groupby(called[i:j])) for i, j in pairwise(turns)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 1
    assert called.count("a") > 7 * BLOCK + 7  # each block warms up, too


def test_a_slow_way_counts_fewer_requests_and_at_least_one() -> None:
    times = interleave({"slow": lambda: time.sleep(0.25), "fast": lambda: None}, rounds=2, seed=0)
    assert [len(block) for block in times["slow"]] == [1, 1]
    assert [len(block) for block in times["fast"]] == [BLOCK, BLOCK]
    assert quantiles(times["slow"])["p50"] >= 250


def test_a_ratio_is_taken_within_each_round() -> None:
    drifting = [[1.0, 1.0, 100.0], [2.0, 2.0, 2.0], [8.0, 9.0, 7.0]]
    twice = [[2.0], [4.0, 4.0], [16.0]]
    assert ratio(twice, drifting) == {"p25": 2, "p50": 2, "p75": 2}
    assert quantiles([[1.0, 2.0], [3.0]])["p50"] == 2


def test_requests_are_rounded_up_to_whole_blocks() -> None:
    assert [rounds_for(requests) for requests in (1, BLOCK, BLOCK + 1)] == [1, 1, 2]
