"""Polls: whose votes are in which batch, tests that come and go, and exceptions that stay with their test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_classifiers import SIGMA, at, linear
from numpy.typing import NDArray

from heatserve.certification.noise import FLOAT32, Fill
from heatserve.certification.polls import STEP, Answer, Failure, Polls, Test, Want, results_in_order
from heatserve.certification.voting import DependentVotesError, Histogram, MonteCarloError, each_by_itself

SHAPE = (1, 1, 2)
K = 1000


def marked(number: int) -> Fill:
    """A stream whose copies say whose they are, and which of its copies: number·1000 + 0, 1, 2, …"""
    taken = 0

    def fill(out: NDArray[np.float32]) -> None:
        nonlocal taken
        out[:] = number * K + np.arange(taken, taken + len(out), dtype=np.float32).reshape(-1, 1, 1, 1)
        taken += len(out)

    return fill


class Recorder:
    """A classifier whose vote is which of its stream's copies it sees; it remembers whose they were, batch by batch."""

    def __init__(self) -> None:
        self.batches = list[list[int]]()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[Any]:
        marks = images[:, 0, 0, 0].astype(int)
        self.batches.append((marks // K).tolist())
        return np.asarray(np.eye(K)[marks % K])

    @property
    def order(self) -> list[int]:
        """Whose copies were voted on, one after another."""
        return [number for batch in self.batches for number in batch]


def asks(*wants: int) -> Test[list[int]]:
    """A test that asks for so many votes, again and again; so far, and in the end, the numbers of its copies."""
    seen = list[int]()
    for want in wants:
        counts = yield Want(want, list(seen) or None)
        assert counts.sum() == want
        seen += np.flatnonzero(counts).tolist()
    return seen


def finals(said: list[Any]) -> dict[Any, Any]:
    assert all(isinstance(one, Answer) for one in said)
    return {one.key: one.found for one in said if one.is_final}


def run(polls: Polls[Any, Any], *, at_most: int = 10_000) -> list[Any]:
    said = list[Any]()
    for _ in range(at_most):
        if not len(polls):
            break
        said += polls.step()
    return said


@settings(deadline=None, max_examples=50)
@given(
    wants=st.lists(st.lists(st.integers(1, 70), max_size=4), min_size=1, max_size=8),
    arrivals=st.lists(st.integers(0, 5), min_size=8, max_size=8),
    batch_size=st.integers(1, 70),
)
def test_every_test_gets_its_own_copies_in_order_and_nothing_else(
    wants: list[list[int]], arrivals: list[int], batch_size: int
) -> None:
    recorder, said, step = Recorder(), list[Any](), 0
    polls = Polls[int, list[int]](recorder, shape=SHAPE, batch_size=batch_size)
    while step <= max(arrivals) or len(polls):
        for number, (sizes, arrival) in enumerate(zip(wants, arrivals)):  # noqa: B905
            if arrival == step:
                polls.open(number, marked(number), asks(*sizes))
        said += polls.step()
        step += 1
    assert finals(said) == {number: list(range(sum(sizes))) for number, sizes in enumerate(wants)}
    assert sorted(recorder.order) == sorted(n for n, sizes in enumerate(wants) for _ in range(sum(sizes)))
    assert all(1 <= len(batch) <= batch_size for batch in recorder.batches)


@settings(deadline=None, max_examples=60)
@given(others=st.integers(0, 12), batch_size=st.integers(1, 70), before=st.integers(0, 5))
def test_a_short_test_waits_for_one_turn_of_each_other_however_many_votes_they_want(
    others: int, batch_size: int, before: int
) -> None:
    recorder = Recorder()
    polls = Polls[int, list[int]](recorder, shape=SHAPE, batch_size=batch_size)
    for number in range(others):
        polls.open(number, marked(number), asks(900))
    for _ in range(before if others else 0):
        polls.step()
    taken = len(recorder.order)
    polls.open(99, marked(99), asks(10))
    while 99 not in finals(polls.step()):
        pass
    order = recorder.order[taken:]
    assert len(order) <= -(-(others * STEP + 10) // batch_size) * batch_size  # and its last batch may be full
    waiting = sum(map(len, recorder.batches[:-1])) - taken
    assert waiting < others * STEP + 10


def test_turns_are_equal_in_the_long_run_whatever_the_batch() -> None:
    for batch_size in (1, 8, 20, 33, 64):
        recorder = Recorder()
        polls = Polls[int, list[int]](recorder, shape=SHAPE, batch_size=batch_size)
        for number in range(3):
            polls.open(number, marked(number), asks(999))
        while len(recorder.order) < 1200:
            polls.step()
        counts = np.bincount(recorder.order, minlength=3)
        assert np.ptp(counts) <= max(STEP, batch_size)


def test_one_test_alone_fills_the_batch_and_gets_no_vote_that_it_did_not_ask_for() -> None:
    recorder = Recorder()
    polls = Polls[str, list[int]](recorder, shape=SHAPE, batch_size=32)
    polls.open("certify", marked(0), asks(70, 5))
    said = run(polls)
    assert [len(batch) for batch in recorder.batches] == [32, 32, 6, 5]
    assert said == [
        Answer("certify", list(range(70)), is_final=False),
        Answer("certify", list(range(75)), is_final=True),
    ]


def test_a_closed_test_takes_no_vote_and_its_key_is_free() -> None:
    recorder = Recorder()
    polls = Polls[str, list[int]](recorder, shape=SHAPE, batch_size=16)
    polls.open("a", marked(0), asks(500))
    polls.open("b", marked(1), asks(40))
    polls.step()
    polls.step()
    polls.close("a")
    polls.close("a")
    assert len(polls) == 1
    with pytest.raises(MonteCarloError, match="key: expected one that no open test has, got 'b'"):
        polls.open("b", marked(2), asks(1))
    polls.open("a", marked(3), asks(1))
    assert finals(run(polls)) == {"a": [0], "b": list(range(40))}
    assert recorder.order.count(0) == 16


def test_a_test_without_votes_is_answered_by_a_step_that_calls_no_classifier() -> None:
    recorder = Recorder()
    polls = Polls[str, list[int]](recorder, shape=SHAPE, batch_size=16)
    assert polls.step() == []
    polls.open("a", marked(0), asks())
    assert len(polls) == 1
    assert polls.step() == [Answer("a", [], is_final=True)]
    assert len(polls) == 0
    assert recorder.batches == []


def test_a_classifier_that_fails_on_one_image_ends_that_test_and_no_other() -> None:
    recorder = Recorder()

    def fails_on_1(images: NDArray[np.float32]) -> NDArray[Any]:
        if (images // K == 1).any():
            raise RuntimeError("cannot")
        return recorder(images)

    polls = Polls[int, list[int]](fails_on_1, shape=SHAPE, batch_size=64)
    for number in range(3):
        polls.open(number, marked(number), asks(20, 20))
    said = run(polls)
    failed = [one for one in said if isinstance(one, Failure)]
    assert [(one.key, str(one.error)) for one in failed] == [(1, "cannot")]
    assert finals([one for one in said if one not in failed]) == {0: list(range(40)), 2: list(range(40))}


def test_a_classifier_that_fails_once_costs_nobody_a_copy() -> None:
    recorder, calls = Recorder(), 0

    def fails_first(images: NDArray[np.float32]) -> NDArray[Any]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise MemoryError
        return recorder(images)

    polls = Polls[int, list[int]](fails_first, shape=SHAPE, batch_size=64)
    for number in range(3):
        polls.open(number, marked(number), asks(16))
    assert finals(run(polls)) == {number: list(range(16)) for number in range(3)}
    assert recorder.batches == [[0] * 16, [1] * 16, [2] * 16]


def test_a_test_that_raises_or_asks_for_nothing_fails_alone() -> None:
    def raises() -> Test[list[int]]:
        yield Want(3)
        raise ZeroDivisionError

    polls = Polls[str, list[int]](Recorder(), shape=SHAPE, batch_size=16)
    polls.open("raises", marked(0), raises())
    polls.open("asks for nothing", marked(1), asks(2, 0))
    polls.open("well", marked(2), asks(30))
    said = run(polls)
    errors = {one.key: one.error for one in said if isinstance(one, Failure)}
    assert isinstance(errors["raises"], ZeroDivisionError)
    assert str(errors["asks for nothing"]) == "expected sample sizes ≥ 1, got 0"
    assert said[-1] == Answer("well", list(range(30)), is_final=True)


def test_scores_that_are_no_table_of_all_images_are_refused() -> None:
    """Fewer votes than were asked for would be votes against every class."""
    polls = Polls[str, list[int]](lambda images: linear(images)[1:], shape=SHAPE, batch_size=16)
    polls.open("a", marked(0), asks(16))
    (failure,) = polls.step()
    assert isinstance(failure, Failure)
    assert str(failure.error) == "classifier: expected scores [16, K], got [15, 2]"


def counting(n: int) -> Test[list[int]]:
    counts: Histogram = yield Want(n)
    return list(map(int, counts))


def test_results_come_in_order_and_do_not_depend_on_the_batches() -> None:
    images, sizes = at(0.2, 20), [(7 * number) % 50 + 1 for number in range(20)]

    def results(batch_size: int) -> list[list[int]]:
        fills = (
            FLOAT32.copies(image, sigma=SIGMA, entropy=np.random.SeedSequence([1, number]))
            for number, image in enumerate(images)
        )
        tests = zip(fills, map(counting, sizes), strict=True)
        return list(results_in_order(linear, tests, shape=SHAPE, batch_size=batch_size))

    assert results(1) == results(24) == results(512)
    assert [sum(result) for result in results(64)] == sizes


def test_offline_the_exception_of_a_classifier_is_raised() -> None:
    def broken(images: NDArray[np.float32]) -> NDArray[Any]:
        raise RuntimeError(f"cannot run {len(images)}")

    with pytest.raises(RuntimeError, match="cannot run 1"):
        list(results_in_order(broken, [(marked(0), counting(1))], shape=SHAPE, batch_size=8))


def test_once_votes_are_seen_to_depend_on_a_batch_no_later_test_gets_any() -> None:
    def together(images: NDArray[np.float32]) -> NDArray[Any]:
        """The class of the first copy, for each of them."""
        return np.tile(np.eye(K)[[int(images[0, 0, 0, 0]) % K]], (len(images), 1))

    polls = Polls[int, list[int]](each_by_itself(together, share=0.25), shape=SHAPE, batch_size=STEP)
    failed = []
    for number in range(400):
        polls.open(number, marked(number), asks(STEP))
        (said,) = polls.step() + polls.step()
        failed.append(isinstance(said, Failure) and isinstance(said.error, DependentVotesError))
    first = failed.index(True)
    assert all(failed[first:]), "and a call that compares nothing casts none either"
