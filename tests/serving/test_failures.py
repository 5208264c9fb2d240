"""How often something is started again, and after how long: pauses that double, and a clear end."""

from __future__ import annotations

from heatserve.serving.supervised.failures import Failures, RestartRule


def test_what_fails_is_started_again_after_pauses_that_double_until_it_failed_five_times_in_a_minute() -> None:
    failures = Failures(RestartRule())
    assert [failures.of_life(1000.0 + 10 * turn) for turn in range(5)] == [0.1, 0.2, 0.4, 0.8, None]
    assert failures.described == "given up after 5 failures within 60 s; the last one: "


def test_what_fails_once_in_a_while_is_always_started_again() -> None:
    failures = Failures(RestartRule())
    assert [failures.of_life(1000.0 + 15 * turn) for turn in range(100)] == [0.1, 0.2, 0.4, *[0.8] * 97]


def test_what_cannot_be_started_again_is_tried_for_a_minute() -> None:
    failures, now = Failures(RestartRule()), 1000.0
    pauses, pause = list[float](), failures.of_life(now)
    while pause is not None:
        pauses.append(pause)
        now += pause
        pause = failures.of_start(now)
    assert pauses[:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0]
    assert set(pauses[8:]) == {10.0}
    assert 60 <= now - 1000 <= 70
    assert failures.described == f"given up after {len(pauses)} failed starts; the last one: "


def test_what_ran_again_has_pauses_from_the_first_on() -> None:
    failures = Failures(RestartRule())
    assert failures.of_life(1000.0) == 0.1
    assert [failures.of_start(1001.0), failures.of_start(1002.0)] == [0.2, 0.4]
    assert failures.of_life(1010.0) == 0.2
    assert failures.of_start(1011.0) == 0.2


def test_what_never_ran_is_given_up_after_five_starts() -> None:
    failures = Failures(RestartRule())
    assert [failures.of_start(1000.0 + turn) for turn in range(5)] == [0.1, 0.2, 0.4, 0.8, None]


def test_one_failure_needs_no_words() -> None:
    failures = Failures(RestartRule(most_failures=1))
    assert failures.of_life(1000.0) is None
    assert failures.described == ""
