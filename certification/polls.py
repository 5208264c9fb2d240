"""Votes for many sequential tests at once: tests come and go between batches, and share each batch fairly.

A *test* looks at one image. It asks for votes, is given their histogram, and goes on until it has its result; what it
asks for, and when it stops, is its own affair. `Polls` takes the votes: offline of many images in turn, in a server of
whatever questions are open.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Generic, TypeVar

import numpy as np

from heatserve.certification.noise import Fill
from heatserve.certification.radius import Float32Array
from heatserve.certification.voting import Classifier, Histogram, MonteCarloError, split_votes

STEP = 16
"""Votes that a test gets in one turn, and between two looks at the evidence."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
K_co = TypeVar("K_co", bound=Hashable, covariant=True)
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Want(Generic[T_co]):
    """What a test waits for, and what it has found so far."""

    votes: int
    """At least 1. Exactly so many are taken, all for this test."""
    so_far: T_co | None = None
    """What somebody who watches may be told already."""


Test = Generator[Want[T], Histogram, T]
"""A sequential test at one image: `yield Want(m)` is the histogram [K] of m new votes; what it returns, its result."""


@dataclass(frozen=True)
class Answer(Generic[K_co, T_co]):
    """What a test found, when it looked at the votes that it had waited for."""

    key: K_co
    found: T_co
    is_final: bool
    """Whether it is the result. The test is closed then."""


@dataclass(frozen=True)
class Failure(Generic[K_co]):
    """A test that is closed without a result, since the classifier or the test itself raised an exception."""

    key: K_co
    error: Exception


class Polls(Generic[K, T]):
    """The open tests of one classifier, each with a key of its own. It belongs to one thread, and starts none.

    Every `step` is one call of the classifier. Tests take turns of `STEP` votes, the one that has waited longest first,
    so that a test with M others open waits for at most M · STEP votes before it gets its next ones, however many those
    others want. A turn that does not fit into a batch goes on in the next one. Votes are taken from a test's own stream
    in order, so its result does not depend on the batches or on the other tests.

    It holds one batch, and of each open test its stream and one histogram.
    """

    def __init__(self, classifier: Classifier, *, shape: Sequence[int], batch_size: int) -> None:
        """No test is open yet.

        Args:
            classifier: the base classifier f. Its argument is overwritten in the next step.
            shape: [C, H, W] of an image.
            batch_size: most noisy copies in one call of the classifier.
        """
        if batch_size < 1:
            raise MonteCarloError(f"batch_size: expected at least 1, got {batch_size}")
        self._classifier = classifier
        self._copies = np.empty((batch_size, *shape), np.float32)
        self._open = OrderedDict[K, _Poll[K, T]]()
        """Those whose turn comes first stand first."""

    def __len__(self) -> int:
        """Number of open tests: those whose result, or failure, no `step` has returned yet."""
        return len(self._open)

    def open(self, key: K, fill: Fill, test: Test[T]) -> None:
        """Begin a test, in the next `step`, on a stream of noisy copies that nobody else takes from.

        Raises:
            MonteCarloError: an open test has this key.
        """
        if key in self._open:
            raise MonteCarloError(f"key: expected one that no open test has, got {key!r}")
        self._open[key] = _Poll(key, fill, test)

    def close(self, key: K) -> None:
        """Give a test up: no vote is taken for it any more. Nothing happens where it has ended already."""
        if poll := self._open.pop(key, None):
            poll.test.close()

    def step(self) -> list[Answer[K, T] | Failure[K]]:
        """Take at most one batch of votes; what those tests found that have all the votes they waited for.

        An exception in a test closes that test. Where the classifier raises one, the same copies are given to it again,
        test by test, and the tests for which it raises once more are closed: new copies in place of those would leave
        a choice of votes that is no fair sample. All other tests go on. What is no `Exception`, such as
        KeyboardInterrupt, passes through, and ends the use of the polls.
        """
        told = [said for poll in list(self._open.values()) if not poll.is_begun for said in self._look(poll)]
        shares, start = self._shares(), 0
        for poll, size in shares:
            poll.fill(self._copies[start : start + size])
            start += size
        for (poll, _), votes in zip(shares, self._votes([size for _, size in shares]), strict=True):
            if isinstance(votes, Exception):
                self.close(poll.key)
                told.append(Failure(poll.key, votes))
                continue
            poll.counts = poll.counts + votes
            if not poll.wanted:
                told.extend(self._look(poll))
        return told

    def _look(self, poll: _Poll[K, T]) -> list[Answer[K, T] | Failure[K]]:
        """Let a test begin, or go on with the votes that it waited for; what it says."""
        try:
            want = poll.test.send(np.asarray(poll.counts)) if poll.is_begun else next(poll.test)
            if want.votes < 1:
                raise MonteCarloError(f"expected sample sizes ≥ 1, got {want.votes}")
        except StopIteration as stop:
            del self._open[poll.key]
            return [Answer(poll.key, stop.value, is_final=True)]
        except Exception as error:
            self.close(poll.key)
            return [Failure(poll.key, error)]
        poll.wanted, poll.counts, poll.is_begun = want.votes, 0, True
        return [] if want.so_far is None else [Answer(poll.key, want.so_far, is_final=False)]

    def _shares(self) -> list[tuple[_Poll[K, T], int]]:
        """Share out one batch, turn by turn: how many copies each test gets."""
        shares, turns, free = dict[K, int](), deque(self._open.values()), len(self._copies)
        while turns and free:
            poll = turns[0]
            size = min(poll.turn, poll.wanted, free)
            shares[poll.key] = shares.get(poll.key, 0) + size
            free, poll.turn, poll.wanted = free - size, poll.turn - size, poll.wanted - size
            if poll.turn and poll.wanted:
                break  # the batch is full, and this turn goes on in the next one
            turns.popleft()
            poll.turn = STEP
            self._open.move_to_end(poll.key)
            if poll.wanted:
                turns.append(poll)
        return [(self._open[key], size) for key, size in shares.items()]

    def _votes(self, sizes: list[int]) -> list[Histogram | Exception]:
        """The histogram of each part of the batch, or the exception that the classifier raised for it."""
        if not sizes:
            return []
        ends = list(accumulate(sizes))
        try:
            return [*split_votes(self._classifier(self._copies[: ends[-1]]), sizes)]
        except Exception as error:
            if len(sizes) == 1:
                return [error]
            return [self._votes_alone(part) for part in np.split(self._copies[: ends[-1]], ends[:-1])]

    def _votes_alone(self, copies: Float32Array) -> Histogram | Exception:
        try:
            return split_votes(self._classifier(copies), [len(copies)])[0]
        except Exception as error:
            return error


@dataclass
class _Poll(Generic[K, T]):
    """An open test."""

    key: K
    fill: Fill
    test: Test[T]
    is_begun: bool = False
    turn: int = STEP
    """Votes that are left of its turn."""
    wanted: int = 0
    """Votes that it still waits for."""
    counts: Histogram | int = 0
    """Those that it waited for and that are there."""


def results_in_order(
    classifier: Classifier, tests: Iterable[tuple[Fill, Test[T]]], *, shape: Sequence[int], batch_size: int
) -> Iterator[T]:
    """The result of each test on its stream of noisy copies, in order.

    So many tests are open at a time that `STEP` votes for each fill a batch.

    Raises:
        Exception: what the classifier or a test raised, at the first that has no result.
    """
    polls = Polls[int, T](classifier, shape=shape, batch_size=batch_size)
    waiting, results, turn = enumerate(tests), dict[int, T](), 0
    while True:
        for number, (fill, test) in islice(waiting, max(1, batch_size // STEP) - len(polls)):
            polls.open(number, fill, test)
        if not len(polls):
            return
        for said in polls.step():
            if isinstance(said, Failure):
                raise said.error
            if said.is_final:
                results[said.key] = said.found
        while turn in results:
            yield results.pop(turn)
            turn += 1
