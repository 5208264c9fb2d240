"""The statistics of an audit: by hand, against the binomial distribution, and on promises that hold or do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from heatserve.certification.audit import (
    POWER,
    AuditError,
    Partition,
    by_radius,
    certified_accuracy,
    judge_promise,
    look_at_groups,
    rate,
)
from heatserve.certification.calibration import images_needed

SHARES = st.sampled_from((0.01, 0.05, 0.1, 0.3))


def test_a_rate_by_hand() -> None:
    found = rate(np.array([True, False, False, False]), delta=0.05)
    assert (found.count, found.total) == (1, 4)
    assert found.lower_bound == pytest.approx(1 - 0.95**0.25)  # P(at least 1 of 4) = 1 − (1 − p)⁴ = 0.05
    assert found.upper_bound == pytest.approx(0.7514, abs=1e-4)  # Clopper and Pearson's table
    none = rate(np.zeros(10, bool), delta=0.05)
    assert none.lower_bound == 0
    assert none.upper_bound == pytest.approx(1 - 0.05**0.1)
    assert rate(np.zeros(0, bool), delta=0.05).upper_bound == 1


def test_a_verdict_by_hand() -> None:
    alpha, delta, positive = 0.1, 0.05, 100
    # P(Binomial(100, 0.1) ≥ 16) = 0.0399 ≤ 0.05 < 0.0726 = P(≥ 15)
    assert judge_promise(15, positive, alpha=alpha, delta=delta).passed
    failed = judge_promise(16, positive, alpha=alpha, delta=delta)
    assert not failed.passed
    assert failed.fails_from == 16
    assert len(failed.reasons) == 1
    assert "16 of 100 positive radii overclaim" in failed.reasons[0]


def test_too_few_positive_radii_fail_even_without_an_overclaim() -> None:
    assert images_needed(0.05, 0.01) == 90
    failed = judge_promise(0, 89, alpha=0.05, delta=0.01)
    assert not failed.passed
    assert "expected at least 90 for α = 0.05 at confidence 0.99, got 89" in failed.reasons[0]
    assert judge_promise(0, 90, alpha=0.05, delta=0.01).passed
    nothing = judge_promise(0, 0, alpha=0.05, delta=0.01)
    assert not nothing.passed
    assert nothing.detectable is None


def test_an_audit_that_no_count_could_fail_does_not_pass() -> None:
    alpha, delta = 0.9, 0.05
    assert images_needed(alpha, delta) == 2
    verdict = judge_promise(0, 2, alpha=alpha, delta=delta)  # 0.9² > 0.05: two overclaims of two say nothing
    assert verdict.fails_from is None
    assert not verdict.passed


@pytest.mark.parametrize(
    "share", [{"alpha": 0.0, "delta": 0.1}, {"alpha": 1.0, "delta": 0.1}, {"alpha": 0.1, "delta": 0}]
)
def test_a_promise_that_says_nothing_is_refused(share: dict[str, float]) -> None:
    with pytest.raises(AuditError, match="expected a promise with a number between 0 and 1, got"):
        judge_promise(0, 1000, **share)


@given(positive=st.integers(1, 400), alpha=SHARES, delta=SHARES)
def test_the_verdict_is_the_exact_binomial_test_and_its_power_is_what_it_says(
    positive: int, alpha: float, delta: float
) -> None:
    verdict = judge_promise(0, positive, alpha=alpha, delta=delta)
    counts = np.arange(positive + 1)
    failing = np.flatnonzero(binom.sf(counts - 1, positive, alpha) < delta)
    if failing.size == 0:
        assert verdict.fails_from is None
        return
    assert verdict.fails_from == failing[0]
    assert binom.sf(failing[0] - 1, positive, alpha) <= delta  # a promise that holds fails that rarely
    assert verdict.detectable is not None
    assert verdict.detectable > alpha
    assert binom.sf(failing[0] - 1, positive, verdict.detectable) == pytest.approx(POWER)
    for count in (failing[0] - 1, failing[0]):
        reasons = judge_promise(int(count), positive, alpha=alpha, delta=delta).reasons
        assert any("overclaim:" in reason for reason in reasons) == (count >= failing[0])


def test_groups_by_hand() -> None:
    positive = np.array([True] * 40 + [False] * 10)
    overclaims = np.array([True] * 10 + [False] * 40)
    classes = Partition("class", ("a", "b", "c"), np.repeat([0, 1, 2], [10, 30, 10]))  # c has no positive radius
    halves = Partition("half", ("first", "second"), np.repeat([0, 1], 25))
    groups = look_at_groups((classes, halves), positive, overclaims, alpha=0.2, delta=0.04)
    assert [(group.by, group.name, group.overclaims.count, group.overclaims.total) for group in groups] == [
        ("class", "a", 10, 10),
        ("class", "b", 0, 30),
        ("half", "first", 10, 25),
        ("half", "second", 0, 15),
    ]
    assert groups[0].overclaims.lower_bound == pytest.approx(0.01**0.1)  # each of four groups at 0.04 / 4
    assert [group.flagged for group in groups] == [True, False, False, False]
    assert look_at_groups((classes,), np.zeros(50, bool), np.zeros(50, bool), alpha=0.2, delta=0.05) == ()


def test_groups_that_keep_the_promise_are_hardly_ever_flagged() -> None:
    alpha, delta, repeats, size = 0.1, 0.1, 100, 2000
    random = np.random.default_rng(0)
    partitions = tuple(Partition(by, tuple(map(str, range(10))), random.integers(0, 10, size)) for by in "ab")
    flagged = 0
    for _ in range(repeats):
        groups = look_at_groups(partitions, np.ones(size, bool), random.random(size) < alpha, alpha=alpha, delta=delta)
        assert len(groups) == 20
        flagged += any(group.flagged for group in groups)
    assert 0 < flagged <= binom.ppf(0.999, repeats, delta)


def test_radii_in_bins() -> None:
    partition = by_radius(np.array([0.0, 0.1, 0.125, 0.13, 0.6]), width=0.125)
    assert partition.members.tolist() == [-1, 0, 0, 1, 4]
    assert partition.names == ("0 to 0.125", "0.125 to 0.25", "0.25 to 0.375", "0.375 to 0.5", "0.5 to 0.625")
    assert by_radius(np.zeros(3), width=0.125).names == ()


@given(
    answers=st.lists(st.tuples(st.booleans(), st.floats(0, 3)), min_size=1, max_size=30),
    radii=st.lists(st.floats(0, 3), min_size=1, max_size=5),
)
def test_certified_accuracy_counts_right_positive_and_large_enough(
    answers: list[tuple[bool, float]], radii: list[float]
) -> None:
    right, radius = (np.array(column) for column in zip(*answers, strict=True))
    expected = [sum(ok and size > 0 and size >= r for ok, size in answers) / len(answers) for r in radii]
    assert certified_accuracy(right, radius, radii) == pytest.approx(expected)
