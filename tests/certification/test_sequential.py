"""Evidence that may be looked at after every vote: against brute force, and in simulated use with optional stopping."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from known_classifiers import SIGMA, at, five_classes, linear
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import binom, norm

from heatserve.certification.martingale import evidence_above, evidence_below
from heatserve.certification.monte_carlo import ABSTAIN, certify
from heatserve.certification.noise import GRID
from heatserve.certification.outcome import Outcome
from heatserve.certification.sequential import decide, predict_early, provable
from heatserve.certification.voting import MonteCarloError

ALPHA = 0.05


@pytest.mark.parametrize("p", [0.5, 0.84, 0.99])
@pytest.mark.parametrize(("successes", "failures"), [(0, 0), (7, 0), (0, 4), (30, 3), (55, 45)])
def test_the_closed_form_is_the_integral(p: float, successes: int, failures: int) -> None:
    """With q = sin²(u), Jeffreys' prior is uniform in u."""
    start = np.arcsin(np.sqrt(p))

    def ratio(u: float) -> float:
        q = np.sin(u) ** 2
        return float((q / p) ** successes * ((1 - q) / (1 - p)) ** failures)

    mixture = quad(ratio, start, np.pi / 2, epsabs=0, epsrel=1e-10)[0] / (np.pi / 2 - start)
    assert evidence_above(successes, failures, p=p) == pytest.approx(np.log(mixture), abs=1e-8)
    assert evidence_below(failures, successes, p=1 - p) == pytest.approx(np.log(mixture), abs=1e-8)


@pytest.mark.parametrize("p", [0.5, 0.84])
def test_its_mean_over_all_sequences_is_1_at_the_boundary_and_less_below(p: float) -> None:
    successes = np.array([sum(votes) for votes in product((0, 1), repeat=10)])
    log_m = evidence_above(successes, 10 - successes, p=p)

    def log_mean(truth: float) -> float:
        return float(logsumexp(log_m + successes * np.log(truth) + (10 - successes) * np.log1p(-truth)))

    assert log_mean(p) == pytest.approx(0, abs=1e-12)
    assert log_mean(p - 0.1) < 0 < log_mean(p + 0.1)


def test_it_stays_finite_or_says_nothing_far_out() -> None:
    assert evidence_above(10**6, 0, p=0.8) == pytest.approx(-(10**6) * np.log(0.8), rel=1e-3)
    assert evidence_above(0, 10**6, p=0.8) == -np.inf


@pytest.mark.parametrize("p", [0.5, norm.cdf(1.0), 0.9])
def test_error_rate_with_a_look_after_every_vote_is_at_most_alpha(p: float) -> None:
    runs, votes = 1000, 300
    successes = (np.random.default_rng(1).random((runs, votes)) < p).cumsum(1)
    failures = np.arange(1, votes + 1) - successes
    for evidence in (evidence_above, evidence_below):
        wrong = (evidence(successes, failures, p=p) >= -np.log(ALPHA)).any(1).sum()
        assert wrong <= binom.ppf(0.999, runs, ALPHA)
        assert wrong >= binom.ppf(0.001, runs, ALPHA / 4)  # and the test is not idle


def test_decide_is_wrong_no_more_often_than_alpha_on_either_side_of_the_radius() -> None:
    """The true radius of `linear` is the distance from its boundary."""
    runs, radius = 400, 0.5
    for distance, wrong in ((0.499, Outcome.YES), (0.501, Outcome.NO)):
        found = list(
            decide(linear, at(distance, runs), radius=radius, sigma=SIGMA, n0=20, n=500, alpha=ALPHA, batch_size=8192)
        )
        assert sum(decision.outcome is wrong for decision in found) <= binom.ppf(0.999, runs, ALPHA)
        assert all((decision.outcome is not Outcome.UNDECIDED) or decision.samples == 520 for decision in found)


def test_decide_settles_clear_images_with_few_votes_and_says_what_certify_says() -> None:
    images = np.concatenate([at(distance) for distance in (0.0, 0.1, 0.3, 0.7, 1.0, 3.0)])
    arguments: dict[str, Any] = {"sigma": SIGMA, "n0": 100, "n": 10_000, "alpha": 0.001}
    decisions = list(decide(linear, images, radius=0.5, **arguments))
    certificates = list(certify(linear, images, **arguments))
    assert [bool(decision.outcome) for decision in decisions] == [c.radius >= 0.5 for c in certificates]
    assert all(decision.outcome is not Outcome.UNDECIDED for decision in decisions)
    assert np.mean([decision.samples for decision in decisions]) < 10_000 / 20
    assert decisions[-1].samples < 200


def test_undecided_at_the_cap_is_never_a_yes() -> None:
    (decision,) = decide(linear, at(0.5), radius=0.5, sigma=SIGMA, n0=10, n=100)
    assert decision.outcome is Outcome.UNDECIDED
    assert decision.samples == 110
    assert not decision.outcome
    assert not Outcome.NO
    assert Outcome.YES


def test_decisions_do_not_depend_on_batches_subsets_or_order() -> None:
    images = np.concatenate([at(distance) for distance in (0.1, 0.4, 0.45, 0.6, 0.9)])
    runs = [
        list(decide(linear, images, radius=0.5, sigma=SIGMA, n=400, seed=4, batch_size=size)) for size in (1, 50, 512)
    ]
    assert runs[0] == runs[1] == runs[2]
    some = decide(linear, images[[4, 2]], indices=[4, 2], radius=0.5, sigma=SIGMA, n=400, seed=4)
    assert list(some) == [runs[0][4], runs[0][2]]


def test_decide_knows_the_top_k_rule_and_the_grid() -> None:
    x = np.array([[[[0.4, 0.0]]]], np.float32)
    one, four = (next(decide(five_classes, x, radius=0.1, sigma=SIGMA, top_k=k)) for k in (1, 4))
    assert one.outcome is Outcome.NO
    assert four.outcome is Outcome.YES
    assert len(four.classes) == 4
    (black,) = decide(linear, np.zeros((1, 1, 1, 2), np.float32), radius=0.3, sigma=SIGMA, noise=GRID)
    assert black.outcome is Outcome.NO


def test_a_radius_is_provable_if_votes_that_all_agree_prove_it() -> None:
    far: dict[str, Any] = {"sigma": SIGMA, "alpha": 0.001, "n": 200}
    for radius in (0.5, 0.8, 1.0, 1.1, 1.2, 2.0):
        (found,) = decide(linear, at(30.0), radius=radius, **far)
        assert (found.outcome is Outcome.YES) == provable(radius, **far), radius
    assert provable(0.5, **far)
    assert not provable(2.0, **far)


def test_a_decision_guesses_by_all_votes() -> None:
    """One vote names the class that is decided on, often the wrong one; all of them guess."""
    found = list(decide(linear, at(0.3, 40), radius=0.5, sigma=SIGMA, n0=1, n=2000))
    assert 0 < sum(decision.classes[0] != 0 for decision in found) < 40
    assert [decision.guess for decision in found] == [0] * 40


def test_predict_early_is_wrong_no_more_often_than_alpha_and_quick_where_it_is_easy() -> None:
    runs = 400
    near = list(predict_early(linear, at(0.02, runs), sigma=SIGMA, n=300, alpha=ALPHA, batch_size=8192))
    assert sum(prediction.label == 1 for prediction in near) <= binom.ppf(0.999, runs, ALPHA)
    assert all(prediction.samples == 300 for prediction in near if prediction.label == ABSTAIN)
    (far,) = predict_early(linear, at(3.0), sigma=SIGMA)
    assert far.label == 0
    assert far.samples == 16


def test_a_classifier_without_numbers_proves_nothing() -> None:
    def broken(images: NDArray[np.float32]) -> NDArray[Any]:
        return np.full((len(images), 3), np.nan)

    (decision,) = decide(broken, at(0.0), radius=0.5, sigma=SIGMA, n=1000)
    (prediction,) = predict_early(broken, at(0.0), sigma=SIGMA, n=100)
    assert decision.outcome is Outcome.NO
    assert (prediction.label, prediction.samples) == (ABSTAIN, 100)


def test_predict_early_names_the_class_that_is_ahead_of_four_others() -> None:
    x = np.array([[[[0.2, 0.6]]]], np.float32)
    votes = np.bincount(five_classes(x[0] + SIGMA * np.random.default_rng(1).normal(size=(10**5, 1, 2))).argmax(1))
    (found,) = predict_early(five_classes, x, sigma=SIGMA, n=10_000)
    assert found.label == votes.argmax()


def test_predict_early_shares_alpha_among_the_other_classes() -> None:
    """16 votes that all agree are evidence enough for one comparison at this alpha, and not for each of four."""
    alpha = 1.5 * float(np.exp(-evidence_above(16, 0, p=0.5)))
    (of_two,) = predict_early(linear, at(100.0), sigma=SIGMA, alpha=alpha)
    (of_five,) = predict_early(five_classes, np.array([[[[100.0, 0.0]]]], np.float32), sigma=SIGMA, alpha=alpha)
    assert (of_two.samples, of_five.samples) == (16, 32)
    assert of_two.label == of_five.label == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": -0.1}, "radius: expected 0 to 8σ = 4, got -0.1"),
        ({"radius": 4.1}, "radius: expected 0 to 8σ = 4, got 4.1"),
        ({"n0": 0}, "expected sample sizes ≥ 1, got n0 = 0, n = 10000"),
        ({"sigma": 0.0}, "expected sigma > 0"),
        ({"alpha": 1.0}, "alpha: expected a number between 0 and 1, got 1"),
    ],
)
def test_refuses_what_means_nothing(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MonteCarloError, match=message):
        list(decide(linear, at(1.0), **{"radius": 0.5, "sigma": SIGMA, **arguments}))
