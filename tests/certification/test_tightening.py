"""Bounds that tighten: how often any of them is false, what they are beside Clopper-Pearson, and Certify as a test."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from known_classifiers import SIGMA, at, five_classes, linear
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from heatserve.certification.anytime import anytime_lower_bound
from heatserve.certification.binomial import lower_bound
from heatserve.certification.martingale import evidence_above
from heatserve.certification.monte_carlo import ABSTAIN, Certificate, alpha_left, certify
from heatserve.certification.noise import FLOAT32, GRID
from heatserve.certification.polls import STEP, Answer, Polls, Test, results_in_order
from heatserve.certification.tightening import Bound, certificate, tightening
from heatserve.certification.voting import MonteCarloError, streams

ALPHA = 0.05


def fed(test: Test[Bound], votes: NDArray[np.int64], classes: int) -> Iterator[Bound]:
    """Every bound of a test that is given these votes, one class each, in order; the result is the last."""
    want, start = next(test), 0
    while True:
        counts = np.bincount(votes[start : start + want.votes], minlength=classes)
        assert counts.sum() == want.votes, "asks for more votes than there are"
        start += want.votes
        try:
            want = test.send(counts)
        except StopIteration as stop:
            yield stop.value
            return
        if want.so_far is not None:
            yield want.so_far


def largest(successes: int, trials: int, alpha: float) -> float:
    """The bound by its definition, on a fine grid of p: the largest that is refuted."""
    grid = np.linspace(0.001, 0.999, 999)
    refuted = [p for p in grid if evidence_above(successes, trials - successes, p=p) >= -math.log(alpha)]
    return float(max(refuted, default=0.0))


@pytest.mark.parametrize(
    "truth", [pytest.param(0.5, marks=pytest.mark.slow), norm.cdf(0.5), pytest.param(0.95, marks=pytest.mark.slow)]
)
def test_any_bound_of_a_test_is_false_with_probability_at_most_alpha(truth: float) -> None:
    runs, n = 500, 300
    votes = (np.random.default_rng(7).random((runs, n + 9)) >= truth).astype(int)
    wrong = idle = 0
    for row in votes:
        *_, last = fed(tightening(sigma=SIGMA, n0=9, n=n, alpha=ALPHA), row, 2)
        share = truth if last.classes == (0,) else 1 - truth
        wrong += last.p_lower > share  # bounds only grow: if any was false, the last one is
        idle += last.p_lower < share - 0.2
    assert binomtest(wrong, runs, ALPHA, alternative="greater").pvalue > 0.001
    assert binomtest(wrong, runs, ALPHA / 10, alternative="less").pvalue > 0.001  # and alpha is used
    assert idle < 0.05 * runs


@settings(deadline=None, max_examples=60)
@given(
    votes=st.lists(st.integers(0, 3), min_size=300, max_size=300),
    n0=st.integers(1, 40),
    n=st.integers(1, 260),
    top_k=st.integers(1, 3),
    alpha=st.floats(1e-9, 0.9),
)
def test_bounds_only_grow_and_count_their_votes(votes: list[int], n0: int, n: int, top_k: int, alpha: float) -> None:
    bounds = list(fed(tightening(sigma=SIGMA, n0=n0, n=n, alpha=alpha, top_k=top_k), np.array(votes), 4))
    assert {bound.classes for bound in bounds} == {bounds[0].classes}
    assert len(bounds[0].classes) == top_k
    for earlier, later in pairwise(bounds):
        assert earlier.p_lower <= later.p_lower
        assert earlier.radius <= later.radius
        assert 0 < later.votes - earlier.votes <= max(STEP, later.votes // 8)
    assert bounds[-1].votes == n0 + n
    best = 0.0
    for bound in bounds:
        best = max(best, np.isin(votes[n0 : bound.votes], bound.classes).mean())
        assert 0 <= bound.p_lower <= best
        assert bound.radius == pytest.approx(SIGMA * max(0.0, norm.ppf(bound.p_lower)), abs=1e-12)


@settings(deadline=None, max_examples=200)
@given(trials=st.integers(1, 3000), share=st.floats(0, 1), alpha=st.floats(1e-9, 0.999))
@example(trials=100_000, share=1.0, alpha=1e-6)
@example(trials=1, share=1.0, alpha=0.999)
def test_a_bound_is_the_end_of_an_interval_of_refuted_probabilities(trials: int, share: float, alpha: float) -> None:
    """Every p below it is refuted, and none above: so it is no matter that only its own p was looked at."""
    successes, enough = round(share * trials), max(-math.log(alpha), 1.0)
    bound = anytime_lower_bound(successes, trials, alpha=alpha)
    below, above = bound * np.linspace(0.01, 1, 50), bound + (1 - bound) * np.linspace(1e-5, 0.999, 50)
    if bound > 0:
        assert all(evidence_above(successes, trials - successes, p=p) >= enough for p in below)
    assert all(evidence_above(successes, trials - successes, p=max(p, 1e-12)) < enough for p in above)
    assert anytime_lower_bound(successes, trials, alpha=alpha, least=0.3) == pytest.approx(max(0.3, bound), abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(trials=st.integers(1, 2000), share=st.floats(0.3, 1), alpha=st.floats(1e-9, 0.2))
def test_it_is_never_above_clopper_pearson_and_soon_close_to_it(trials: int, share: float, alpha: float) -> None:
    """Who may look at any time pays for it: no bound of all times is above the exact one of a single time."""
    successes = round(share * trials)
    bound, exact = (
        anytime_lower_bound(successes, trials, alpha=alpha),
        float(lower_bound(successes, trials, alpha=alpha)),
    )
    assert bound <= exact
    assume(trials >= 50)
    spread = math.sqrt(share * (1 - share) / trials) + 1 / trials
    assert exact - bound < 3 * spread * math.sqrt(math.log(trials / alpha))


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (1, 1), (5, 5), (45, 50), (300, 400)])
def test_it_is_the_largest_probability_that_is_refuted(successes: int, trials: int) -> None:
    found = anytime_lower_bound(successes, trials, alpha=0.01)
    assert largest(successes, trials, 0.01) <= found < largest(successes, trials, 0.01) + 0.001


def test_a_watched_certify_ends_near_what_certify_proves() -> None:
    images, n0, n = np.concatenate([at(0.4), at(1.0), at(30.0)]), 100, 10_000
    plain = certify(linear, images, sigma=SIGMA, n0=n0, n=n, alpha=0.001, seed=3)
    fills = streams(images, indices=None, sigma=SIGMA, seed=3, noise=FLOAT32)
    tests = ((fill, tightening(sigma=SIGMA, n0=n0, n=n, alpha=0.001)) for fill in fills)
    for bound, exact in zip(results_in_order(linear, tests, shape=(1, 1, 2), batch_size=64), plain, strict=True):
        assert bound.classes == exact.classes
        assert bound.votes == 10_100
        assert 0.9 * exact.radius < bound.radius <= exact.radius


def test_votes_that_all_disagree_with_the_guess_prove_nothing() -> None:
    votes = np.array([0] * 3 + [1] * 50)
    bounds = list(fed(tightening(sigma=SIGMA, n0=3, n=50, alpha=ALPHA), votes, 2))
    assert [(bound.classes, bound.p_lower, bound.radius) for bound in bounds] == [((0,), 0.0, 0.0)] * 4
    assert [bound.votes for bound in bounds] == [19, 35, 51, 53]


@pytest.mark.parametrize("batch_size", [1, 32, 100])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_certify_as_a_test_says_what_certify_says(batch_size: int, top_k: int) -> None:
    """The same votes, n₀ and n, and the same alpha left: the same certificate, bit for bit."""
    levels = np.array([[[[0, 0]]], [[[102, 0]]], [[[51, 229]]], [[[255, 255]]], [[[255, 0]]]], np.float32)
    images = levels / np.float32(255)
    arguments: dict[str, Any] = {"sigma": SIGMA, "n0": 30, "n": 300, "top_k": top_k}
    expected = list(certify(five_classes, images, alpha=1e-3, seed=5, noise=GRID, **arguments))
    left = alpha_left(1e-3, shape=(1, 1, 2), votes=330, sigma=SIGMA, noise=GRID)
    fills = streams(images, indices=None, sigma=SIGMA, seed=5, noise=GRID)
    tests = ((fill, certificate(alpha=left, **arguments)) for fill in fills)
    assert list(results_in_order(five_classes, tests, shape=(1, 1, 2), batch_size=batch_size)) == expected
    assert {one.label == ABSTAIN for one in expected} == ({False} if top_k == 4 else {True, False})


@settings(deadline=None, max_examples=25)
@given(
    batch_size=st.integers(1, 60), arrivals=st.lists(st.integers(0, 6), min_size=6, max_size=6), gone=st.integers(0, 5)
)
def test_among_questions_that_come_and_go_certify_says_what_it_says_offline(
    batch_size: int, arrivals: list[int], gone: int
) -> None:
    images, found, step = at(0.5, 6), dict[int, Certificate](), 0
    expected = list(certify(linear, images, sigma=SIGMA, n0=20, n=70, alpha=ALPHA, seed=2))
    fills = list(streams(images, indices=None, sigma=SIGMA, seed=2, noise=FLOAT32))
    polls = Polls[int, Certificate](linear, shape=(1, 1, 2), batch_size=batch_size)
    while step <= max(arrivals) or len(polls):
        for number in np.flatnonzero(np.array(arrivals) == step).tolist():
            polls.open(number, fills[number], certificate(sigma=SIGMA, n0=20, n=70, alpha=ALPHA))
        if step == arrivals[gone] + 1:
            polls.close(gone)
        found |= {said.key: said.found for said in polls.step() if isinstance(said, Answer)}
        step += 1
    found.setdefault(gone, expected[gone])  # it was given up, unless its one step was enough
    assert [found[number] for number in range(6)] == expected


def test_a_watched_and_a_plain_certify_share_batches() -> None:
    polls = Polls[str, Bound | Certificate](linear, shape=(1, 1, 2), batch_size=32)
    for key, test in (
        ("watched", tightening(sigma=SIGMA, n0=20, n=200, alpha=ALPHA)),
        ("plain", certificate(sigma=SIGMA, n0=20, n=200, alpha=ALPHA)),
    ):
        polls.open(key, FLOAT32.copies(at(1.0)[0], sigma=SIGMA, entropy=np.random.SeedSequence(len(key))), test)
    said = list[Any]()
    while len(polls):
        said += polls.step()
    assert all(isinstance(one, Answer) for one in said)
    (plain,) = [one.found for one in said if one.key == "plain"]
    assert isinstance(plain, Certificate)
    watched = [one for one in said if one.key == "watched"]
    assert [one.is_final for one in watched] == [False] * (len(watched) - 1) + [True]
    assert watched[-1].found.votes == 220
    assert 0 < watched[3].found.radius <= watched[-1].found.radius <= 1


def test_the_alpha_that_is_left_depends_on_shape_votes_and_noise() -> None:
    """What is taken is what the probability of any statement about so many votes of one image may be off by."""
    taken = 1e-6 - alpha_left(1e-6, shape=(3, 32, 32), votes=1000, sigma=0.25, noise=GRID)
    assert taken == pytest.approx(1000 * GRID.variation(3 * 32 * 32, sigma=0.25), rel=1e-6)
    assert 0 < taken < 1e-9
    assert alpha_left(1e-6, shape=(3, 32, 32), votes=1000, sigma=0.25, noise=FLOAT32) == 1e-6
    with pytest.raises(MonteCarloError, match=r"alpha: expected a number between \S+ and 1, got 1e-09"):
        alpha_left(1e-9, shape=(3, 224, 224), votes=100_000, sigma=0.25, noise=GRID)
