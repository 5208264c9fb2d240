"""Bounds and evidence that may be looked at after every step: how often they err, and how soon they find what is so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from heatserve.certification.anytime import (
    RANK_BINS,
    Evidence,
    Ranks,
    RateWatch,
    anytime_lower_bound,
    anytime_upper_bound,
    bins_of,
    rank_bets,
    rate_bets,
)

LEVELS = (0.2, 0.05, 0.01)


def assert_rare(happened: NDArray[np.bool_], level: float) -> None:
    """It happened in no more of the runs than chance allows where its probability is at most `level`."""
    assert binomtest(int(happened.sum()), len(happened), level, alternative="greater").pvalue > 1e-4


def largest_evidence(evidence: Evidence, outcomes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The largest evidence ever, of each sequence, at outcomes [T, S]."""
    most = evidence.log
    for now in outcomes:
        evidence.see(now)
        most = np.maximum(most, evidence.log)
    return most


def delays(evidence: Evidence, outcomes: NDArray[np.int64], *, enough: float) -> NDArray[np.int64]:
    """The step at which the evidence of each sequence first is enough; T where it never is."""
    found = np.full(outcomes.shape[1], len(outcomes))
    for step, now in enumerate(outcomes):
        evidence.see(now)
        found[(evidence.log >= enough) & (found == len(outcomes))] = step
    return found


@pytest.mark.parametrize("truth", [pytest.param(0.01, marks=pytest.mark.slow), 0.1])
def test_bounds_hold_at_all_times_together(truth: float) -> None:
    """Runs of 250 trials with a look after each: the share in which any bound is wrong is at most the level."""
    rng, level, runs, wrong = np.random.default_rng(3), 0.2, 40, []
    for _ in range(runs):
        lower, upper, successes, is_wrong = 0.0, 1.0, 0, False
        for trials, success in enumerate(rng.random(250) < truth, 1):
            successes += int(success)
            lower = anytime_lower_bound(successes, trials, alpha=level / 2, least=lower)
            upper = anytime_upper_bound(successes, trials, alpha=level / 2, most=upper)
            is_wrong |= not lower <= truth <= upper
        wrong.append(is_wrong)
        assert upper - lower < 0.25  # and they say something
    assert_rare(np.array(wrong), level)


def test_the_upper_bound_is_the_lower_one_of_the_failures() -> None:
    assert anytime_upper_bound(3, 50, alpha=0.01) == 1 - anytime_lower_bound(47, 50, alpha=0.01)
    assert anytime_upper_bound(3, 50, alpha=0.01, most=0.1) == pytest.approx(0.1)
    assert anytime_upper_bound(50, 50, alpha=0.01) == 1


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.1, 0.5])
def test_no_bettor_gains_where_the_rate_is_allowed(alpha: float) -> None:
    bets = rate_bets(alpha)
    for rate in (0, alpha / 2, alpha):
        assert (bets @ [1 - rate, rate] <= 1 + 1e-12).all()
    assert (bets @ [1 - 2 * alpha / (1 + alpha), 2 * alpha / (1 + alpha)]).max() > 1


def test_no_bettor_gains_by_uniform_p_values() -> None:
    assert rank_bets().mean(axis=1) == pytest.approx(np.ones(25))
    assert (rank_bets() > 0).all()


@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_a_rate_that_is_just_allowed_alarms_no_more_often_than_the_level(alpha: float) -> None:
    rng = np.random.default_rng(4)
    most = largest_evidence(Evidence(rate_bets(alpha), sequences=2000), (rng.random((1500, 2000)) < alpha).astype(int))
    for level in LEVELS:
        assert_rare(most >= math.log(1 / level), level)


def test_a_rate_that_is_allowed_at_each_step_only_alarms_no_more_often() -> None:
    """The rate may depend on all before: here it is α after a failure and 0 after a success, and next to α in waves."""
    rng, alpha, runs = np.random.default_rng(5), 0.1, 2000
    evidence, before, most = Evidence(rate_bets(alpha), sequences=runs), np.zeros(runs, int), np.zeros(runs)
    for step in range(800):
        rate = np.where(before, 0, alpha * (0.5 + 0.5 * math.cos(step / 50) ** 2))
        before = (rng.random(runs) < rate).astype(int)
        evidence.see(before)
        most = np.maximum(most, evidence.log)
    for level in LEVELS:
        assert_rare(most >= math.log(1 / level), level)


@pytest.mark.parametrize(
    ("alpha", "rate", "honest", "steps"), [(0.01, 0.05, 0, 500), (0.1, 0.5, 0, 40), (0.1, 0.5, 2000, 80)]
)
def test_a_rate_that_is_too_high_is_found_soon_also_after_a_long_honest_time(
    alpha: float, rate: float, honest: int, steps: int
) -> None:
    """Of an honest time it remembers little: two thousand trials at half of α cost a handful more afterwards."""
    rng, runs = np.random.default_rng(6), 100
    before = rng.random((honest, runs)) < alpha / 2
    after = rng.random((steps, runs)) < rate
    outcomes = np.concatenate([before, after]).astype(int)
    found = delays(Evidence(rate_bets(alpha), sequences=runs), outcomes, enough=math.log(2 / 0.001))
    assert (found >= honest).all()
    assert np.mean(found < honest + steps) > 0.9


def test_a_watch_of_a_rate_says_what_it_has_seen() -> None:
    watch = RateWatch(0.1, level=0.01)
    assert (watch.rate, watch.lower, watch.upper, watch.alarmed) == (0, 0, 1, False)
    for _ in range(200):
        watch.see(False)
    assert (watch.trials, watch.successes, watch.rate, watch.alarmed) == (200, 0, 0, False)
    assert watch.lower == 0
    assert watch.upper < 0.1
    for _ in range(40):
        watch.see(True)
    assert watch.alarmed  # 40 of 240, all of them at the end
    assert watch.rate == pytest.approx(1 / 6)
    for _ in range(2000):
        watch.see(False)
    assert watch.alarmed, "an alarm stays"


def test_a_lower_bound_above_alpha_is_an_alarm() -> None:
    watch, rng = RateWatch(0.05, level=0.001), np.random.default_rng(8)
    for happened in rng.random(2000) < 0.12:
        watch.see(bool(happened))
        assert watch.alarmed or watch.lower <= 0.05
    assert watch.lower > 0.05


@pytest.mark.parametrize("name", ["alpha", "level"])
def test_shares_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a number between 0 and 1, got 0"):
        RateWatch(**{"alpha": 0.1, "level": 0.1} | {name: 0})


def reference(values: NDArray[np.int64], cells: int) -> NDArray[np.int64]:
    """How many of the values [S, n] lie in each cell, [S, cells]."""
    return np.array([np.bincount(row, minlength=cells) for row in values])


def test_a_p_value_is_a_rank_among_all_before() -> None:
    """By its definition: the share that is larger, and a random part of those that are equal, itself among them."""
    rng = np.random.default_rng(9)
    known = rng.integers(0, 6, (1, 20))
    ranks, seen, chance = Ranks(reference(known, 6), np.random.default_rng(1)), list(known[0]), np.random.default_rng(1)
    for value in rng.integers(0, 6, 30):
        seen.append(value)
        larger, equal = sum(other > value for other in seen), sum(other == value for other in seen)
        assert ranks.p_values([value])[0] == pytest.approx((larger + chance.random() * equal) / len(seen))


@pytest.mark.parametrize("cells", [8, 128])
def test_exchangeable_values_have_uniform_p_values_and_alarm_no_more_often_than_the_level(cells: int) -> None:
    """Few values to begin with, many ties, and all of them shared by the whole sequence: still uniform, independent."""
    rng, runs, steps = np.random.default_rng(10), 2000, 300
    values = np.clip((rng.normal(size=(runs, 60 + steps)) * cells / 8 + cells / 2).astype(int), 0, cells - 1)
    ranks, evidence = Ranks(reference(values[:, :60], cells), rng), Evidence(rank_bets(), sequences=runs)
    most, counts, repeats = np.zeros(runs), np.zeros(RANK_BINS), []
    last = np.zeros(runs)
    for step in range(60, 60 + steps):
        p = ranks.p_values(values[:, step])
        counts += np.bincount(bins_of(p), minlength=RANK_BINS)
        repeats.append(np.corrcoef(p, last)[0, 1] if step > 60 else 0.0)
        last = p
        evidence.see(bins_of(p))
        most = np.maximum(most, evidence.log)
    assert counts / counts.sum() == pytest.approx(np.full(RANK_BINS, 1 / RANK_BINS), rel=0.05)
    assert abs(np.mean(repeats)) < 0.01
    for level in LEVELS:
        assert_rare(most >= math.log(1 / level), level)


@pytest.mark.parametrize("honest", [0, 500])
def test_values_that_shift_are_found_also_after_an_honest_time(honest: int) -> None:
    rng, runs, steps = np.random.default_rng(11), 50, 250
    shift = np.where(np.arange(300 + honest + steps) < 300 + honest, 0.0, 1.0)
    values = np.clip(((rng.normal(size=(runs, len(shift))) + shift) * 32 + 256).astype(int), 0, 511)
    ranks = Ranks(reference(values[:, :300], 512), rng)
    outcomes = np.array([bins_of(ranks.p_values(now)) for now in values[:, 300:].T])
    found = delays(Evidence(rank_bets(), sequences=runs), outcomes, enough=math.log(4 / 0.001))
    assert (found >= honest).all()
    assert (found < honest + steps).all()
