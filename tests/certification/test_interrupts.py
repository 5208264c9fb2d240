"""A Ctrl-C ends what it is to end, whatever code of others makes of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from heatserve.certification.interrupts import passing_interrupts


@pytest.fixture(autouse=True)
def _as_python_has_it() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "it is put back"
    signal.signal(signal.SIGINT, before)


def swallowed(error: Exception | None = None) -> None:
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    if error:
        raise error


def test_one_that_becomes_another_error_comes_out() -> None:
    with pytest.raises(KeyboardInterrupt), passing_interrupts():
        swallowed(AttributeError("module 'half' has no attribute 'imported'"))


def test_one_that_is_swallowed_comes_out() -> None:
    with pytest.raises(KeyboardInterrupt), passing_interrupts():
        swallowed()


def test_an_error_without_one_is_left_as_it_is() -> None:
    with pytest.raises(AttributeError, match="half"), passing_interrupts():
        raise AttributeError("half")


def test_who_takes_the_signal_otherwise_keeps_it() -> None:
    came = list[int]()
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    with passing_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert came == [signal.SIGINT]
    signal.signal(signal.SIGINT, signal.default_int_handler)
