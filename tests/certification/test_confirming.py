"""Confirm: never wrong more often than alpha, whatever the single pass says; and cheap where the votes agree."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_classifiers import SIGMA, at, linear
from scipy.stats import binomtest, norm

from heatserve.certification.confirming import (
    PLAIN,
    RULE,
    Confirmation,
    Rule,
    confirm,
    confirmation,
    threshold,
    votes_needed,
)
from heatserve.certification.martingale import JEFFREYS, evidence_above
from heatserve.certification.noise import FLOAT32, GRID, NoiseError
from heatserve.certification.outcome import Ending, Outcome
from heatserve.certification.polls import Test
from heatserve.certification.voting import MonteCarloError
from heatserve.export.tiers import TierReason

P = float(norm.cdf(0.5))
"""Φ(r/σ) at r = σ/2."""
KEEN = Rule(price=None)
"""As `RULE`, and never gives up: where it errs, `RULE` errs no more often."""


def answer(test: Test[Confirmation], votes: np.ndarray[Any, Any]) -> Confirmation:
    """The result of a test on votes for its class, 1, or for another one, 0; it may take no more than there are."""
    taken = 0
    try:
        want = next(test)
        while True:
            part = votes[taken : taken + want.votes]
            assert len(part) == want.votes, "it took more than n votes"
            taken += want.votes
            want = test.send(np.bincount(part, minlength=2))
    except StopIteration as stop:
        found: Confirmation = stop.value
    assert found.votes == taken
    return found


def asked(votes: np.ndarray[Any, Any], **changed: Any) -> Confirmation:
    """What is found on these votes at r = σ/2."""
    question: dict[str, Any] = {"label": 1, "p": P, "n": len(votes), "alpha": 0.001}
    return answer(confirmation(**{**question, **changed}), votes)


@pytest.mark.parametrize("truth", [P, P - 0.02])
def test_a_look_after_every_vote_errs_no_more_often_than_alpha(truth: float) -> None:
    """All looks that any rule could take: with these, an error rate of 1.4·alpha (1.9 at 0.01) would be found."""
    runs, votes = 2000, 150
    successes = (np.random.default_rng(7).random((runs, votes)) < truth).cumsum(1)
    failures = np.arange(1, votes + 1) - successes
    most = evidence_above(successes, failures, p=P).max(1)
    for alpha in (0.05, 0.01):
        errors = int((most >= -math.log(alpha)).sum())
        assert binomtest(errors, runs, alpha, alternative="greater").pvalue > 0.001
        if truth == P:
            assert errors > 0.2 * alpha * runs, "and the test is not idle"


@pytest.mark.parametrize(("truth", "wrong"), [(P, Outcome.YES), (P + 1e-9, Outcome.NO)])
@pytest.mark.slow
def test_the_rule_errs_no_more_often_than_alpha_on_either_side_of_the_boundary(truth: float, wrong: Outcome) -> None:
    runs, alpha = 600, 0.05
    votes = (np.random.default_rng(8).random((runs, 200)) < truth).astype(int)
    kept = [asked(row, alpha=alpha, rule=KEEN).outcome for row in votes]
    assert binomtest(kept.count(wrong), runs, alpha, alternative="greater").pvalue > 0.001
    early = [asked(row, alpha=alpha).outcome for row in votes]
    pairs = zip(kept, early, strict=True)  # giving up turns an answer into none, and never into another
    assert all(later in (first, Outcome.UNDECIDED) for first, later in pairs)


def test_on_images_whose_true_radius_is_the_radius_it_is_wrong_no_more_often_than_alpha() -> None:
    """The whole of `confirm`, with fresh entropy: `linear` at distance r has P(vote) = Φ(r/σ)."""
    runs, alpha = 1500, 0.05
    found = confirm(
        linear,
        at(0.25, runs),
        [0] * runs,
        radius=0.25,
        sigma=SIGMA,
        n=100,
        alpha=alpha,
        noise=FLOAT32,
        batch_size=4096,
    )
    errors = sum(one.outcome is Outcome.YES for one in found)
    assert binomtest(errors, runs, alpha, alternative="greater").pvalue > 0.001
    assert errors > 0


@given(
    votes=st.lists(st.integers(0, 1), min_size=1, max_size=80),
    p=st.floats(0.5, threshold(8, sigma=1)),
    alpha=st.floats(1e-12, 0.5),
    rule=st.sampled_from([RULE, PLAIN, KEEN]),
)
@settings(deadline=None, max_examples=200)
def test_an_answer_is_what_the_evidence_says_for_any_question(
    votes: list[int], p: float, alpha: float, rule: Rule
) -> None:
    found = asked(np.array(votes), p=p, alpha=alpha, rule=rule)
    successes = sum(votes[: found.votes])
    if found.reason is Ending.PROVEN:
        evidence = evidence_above(successes, found.votes - successes, p=p)
        assert evidence >= -math.log(alpha)
        assert successes / found.votes > p
    elif found.reason is Ending.DISPROVEN:
        assert successes / found.votes < p
    elif found.reason is Ending.VOTES:
        assert found.votes == len(votes)
    elif not found.votes:
        evidence = evidence_above(len(votes), 0, p=p)
        assert evidence < -math.log(alpha), "votes are taken, unless they are too few for any proof"


@given(p=st.floats(0.5, 0.999), votes=st.integers(0, 8))
@settings(deadline=None)
def test_the_evidence_is_worth_1_on_average_at_the_boundary(p: float, votes: int) -> None:
    """E M = 1: what Ville's inequality needs, and that nothing is lost."""
    successes = np.arange(votes + 1)
    weights = np.array([math.comb(votes, s) * p**s * (1 - p) ** (votes - s) for s in successes])
    evidence = evidence_above(successes, votes - successes, p=p)
    assert float((weights * np.exp(evidence)).sum()) == pytest.approx(1, rel=1e-8)


@pytest.mark.parametrize(
    ("successes", "failures"), [(0, 0), (21, 0), (400, 100), pytest.param(99_000, 1_000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("p", [0.5, P, float(norm.cdf(4))])
def test_the_evidence_is_exact_for_up_to_100000_votes(successes: int, failures: int, p: float) -> None:
    """Against 40 digits; where float64 has no such number it must say less, never more."""
    exact = mpmath.MPContext()
    exact.dps = 40
    x = 1 - exact.mpf(p)

    def log_mass(a: float, b: float) -> Any:
        """log ∫ over (p, 1] as x^b p^a/b · ₂F₁(a + b, 1; b + 1; x), x = 1 − p: a series of positive terms."""
        term, total, k = exact.mpf(1), exact.mpf(1), 0
        while term > total * exact.mpf(10) ** -30:
            term *= (a + b + k) / exact.mpf(b + 1 + k) * x
            total, k = total + term, k + 1
        return b * exact.log(x) + a * exact.log(1 - x) - exact.log(b) + exact.log(total)

    a, b = JEFFREYS
    true = log_mass(a + successes, b + failures) - log_mass(a, b)
    true -= successes * exact.log(1 - x) + failures * exact.log(x)
    found = float(evidence_above(successes, failures, p=p))
    assert found == pytest.approx(float(true), rel=1e-9, abs=1e-7) or (found == -np.inf and true < 0)


def test_what_float64_cannot_tell_is_no_evidence() -> None:
    assert evidence_above(10, 0, p=1.0) == -np.inf  # no mass above p
    assert evidence_above(10, 0, p=math.nan) == -np.inf
    assert (evidence_above(np.arange(3), 0, p=1.0) == -np.inf).all()


@pytest.mark.slow
def test_long_tests_stay_right_at_small_alpha() -> None:
    """100,000 votes at alpha 1e-12: proven a little above p, never at p or below it."""
    rng = np.random.default_rng(3)
    above, at_p = ((rng.random(100_000) < q).astype(int) for q in (P + 0.02, P))
    rule = Rule(price=None, step=500)
    assert asked(above, alpha=1e-12, rule=rule).reason is Ending.PROVEN
    assert asked(at_p, alpha=1e-12, rule=rule).reason is Ending.VOTES


@pytest.mark.parametrize("rule", [RULE, PLAIN])
def test_what_is_no_class_is_never_confirmed(rule: Rule) -> None:
    assert asked(np.ones(100, int), label=-1, rule=rule) == Confirmation(Ending.HOPELESS, 0)


def test_votes_for_no_class_count_against_it() -> None:
    """A histogram has fewer votes than were taken where scores are not numbers."""
    test = confirmation(label=1, p=P, n=16, alpha=0.001, rule=KEEN)
    assert (next(test).votes, test.send(np.array([0, 4])).votes) == (8, 8)
    with pytest.raises(StopIteration) as stop:
        test.send(np.array([0, 4]))
    assert stop.value.value == Confirmation(Ending.VOTES, 16)


@pytest.mark.parametrize(("radius", "alpha"), [(0.125, 1e-3), (0.125, 1e-6), (0.25, 1e-3), (0.0, 1e-9), (0.5, 1e-12)])
def test_a_radius_needs_so_many_votes_and_fewer_are_refused_without_one(radius: float, alpha: float) -> None:
    needed = votes_needed(radius, sigma=0.25, alpha=alpha)
    question: dict[str, Any] = {"p": threshold(radius, sigma=0.25), "alpha": alpha}
    assert asked(np.ones(needed, int), **question) == Confirmation(Ending.PROVEN, needed)
    assert asked(np.ones(needed - 1, int), **question) == Confirmation(Ending.HOPELESS, 0)
    assert needed >= math.log(alpha) / math.log(threshold(radius, sigma=0.25)), "no test of level alpha needs fewer"


def test_a_radius_that_no_number_of_votes_proves_is_hopeless_at_once() -> None:
    assert votes_needed(2.0, sigma=0.25, alpha=1e-3) > 10**15
    found = asked(np.ones(1000, int), p=threshold(2.0, sigma=0.25))
    assert found == Confirmation(Ending.HOPELESS, 0)


def test_it_takes_fewer_votes_than_the_plain_rule_and_a_tenth_of_alpha_adds_few() -> None:
    votes = (np.random.default_rng(0).random((300, 1000)) < np.repeat([0.99, 0.95, 0.4], 100)[:, None]).astype(int)

    def mean(rule: Rule, alpha: float = 0.001) -> list[float]:
        taken = [asked(row, rule=rule, alpha=alpha).votes for row in votes]
        return [float(part.mean()) for part in np.split(np.array(taken), 3)]

    ours, plain = mean(RULE), mean(PLAIN)
    assert all(few < many - 3 for few, many in zip(ours, plain, strict=True)), (ours, plain)
    assert ours[2] < 2 * RULE.step, "what the votes do not expect is given up after the first of them"
    assert all(1.5 < dear / cheap < 2.2 for dear, cheap in zip(mean(RULE, 1e-6)[:2], ours[:2], strict=True))


def test_confirm_answers_each_image_in_order_and_a_seed_repeats_it() -> None:
    images = np.concatenate([at(distance) for distance in (2.0, 0.3, -2.0, 1.5, 2.0)])
    question: dict[str, Any] = {"radius": 0.5, "sigma": SIGMA, "n": 400, "alpha": 0.001, "noise": FLOAT32}
    labels = [0, 0, 0, 0, -1]
    runs = [list(confirm(linear, images, labels, seed=4, batch_size=size, **question)) for size in (1, 50, 512)]
    assert runs[0] == runs[1] == runs[2]
    assert [one.outcome for one in runs[0]] == [
        Outcome.YES,
        Outcome.UNDECIDED,
        Outcome.NO,
        Outcome.YES,
        Outcome.UNDECIDED,
    ]
    assert runs[0][-1].votes == 0
    unlike = {tuple(confirm(linear, at(0.75, 30), [0] * 30, **question)) for _ in range(3)}
    assert len(unlike) == 3, "without a seed, noise is new each time"


def test_a_class_that_is_not_certified_is_disproven_where_it_is_not_given_up() -> None:
    assert asked(np.zeros(100, int), rule=PLAIN).outcome is Outcome.NO
    assert asked(np.zeros(100, int)).outcome is not Outcome.YES


def test_the_tiers_explain_every_ending() -> None:
    assert all(TierReason(ending.value).explanation for ending in Ending)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"radius": 4.1}, MonteCarloError, "radius: expected 0 to 8σ = 4, got 4.1"),
        ({"radius": math.nan}, MonteCarloError, "radius: expected 0 to 8σ = 4, got nan"),
        ({"n": 0}, MonteCarloError, "sample sizes ≥ 1"),
        ({"alpha": 0.0}, MonteCarloError, "alpha: expected a number between 0 and 1, got 0"),
        ({"labels": [0, 0]}, MonteCarloError, "labels: expected 1, one an image, got 2"),
        ({"noise": GRID}, NoiseError, "expected an 8-bit image"),
    ],
)
def test_refuses_what_means_nothing(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    question: dict[str, Any] = {"labels": [0], "radius": 0.5, "sigma": SIGMA, "noise": FLOAT32}
    with pytest.raises(error, match=message):
        list(confirm(linear, at(1.234), **{**question, **changed}))


@pytest.mark.parametrize("changed", [{"p": 1.0}, {"p": 0.4}, {"p": math.nan}, {"alpha": 0.0}, {"n": 0}])
def test_a_question_of_impossible_numbers_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(MonteCarloError, match="expected n ≥ 1, 0 < alpha < 1 and ½ ≤ p ≤ Φ"):
        asked(np.ones(5, int), **changed)
