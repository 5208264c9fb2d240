"""Predict and Certify against a linear classifier, whose Gaussian average and radius are known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from known_classifiers import SIGMA, at, five_classes, linear
from numpy.typing import NDArray
from scipy.stats import binom, norm

from heatserve.certification.monte_carlo import ABSTAIN, certify, largest_provable, predict
from heatserve.certification.voting import DependentVotesError, MonteCarloError, each_by_itself


def test_certified_radii_exceed_the_truth_no_more_often_than_alpha() -> None:
    alpha, runs, distance = 0.05, 1000, 0.4
    certificates = list(certify(linear, at(distance, runs), sigma=SIGMA, n0=10, n=200, alpha=alpha, seed=1))
    claimed = [c for c in certificates if c.label != ABSTAIN]
    wrong = sum(c.label != 0 or c.radius > distance for c in claimed)
    assert len(claimed) > 0.9 * runs
    assert wrong <= binom.ppf(0.999, runs, alpha)
    assert wrong >= binom.ppf(0.001, runs, alpha / 4)  # and the bound is not idle: n = 200 votes make it nearly tight


def test_p_lower_covers_the_true_probability_and_tightens_with_n() -> None:
    truth = norm.cdf(0.4 / SIGMA)
    few, many = (
        next(iter(certify(linear, at(0.4), sigma=SIGMA, n=n, alpha=0.001, seed=0))).p_lower for n in (100, 100_000)
    )
    assert few < many <= truth
    assert many == pytest.approx(truth, abs=0.01)


def test_abstains_on_the_boundary_and_is_finite_when_all_votes_agree() -> None:
    images = np.concatenate([at(0.0), at(100.0)])
    undecided, certain = certify(linear, images, sigma=SIGMA, n=1000, alpha=0.001, seed=0)
    assert (undecided.label, undecided.radius) == (ABSTAIN, 0.0)
    assert certain.label == 0
    assert certain.radius == pytest.approx(SIGMA * largest_provable(n=1000, alpha=0.001))
    assert certain.radius == pytest.approx(SIGMA * norm.ppf(0.001 ** (1 / 1000)))


def test_certify_guesses_by_all_votes() -> None:
    """The one vote that names the class to certify is often for the wrong one: then Certify abstains."""
    found = list(certify(linear, at(0.3, 40), sigma=SIGMA, n0=1, n=2000))
    misled = [certificate for certificate in found if certificate.classes[0] != 0]
    assert 0 < len(misled) < 40
    assert all(certificate.label == ABSTAIN for certificate in misled)
    assert [certificate.guess for certificate in found] == [0] * 40


def test_votes_that_depend_on_the_other_copies_of_a_batch_prove_nothing() -> None:
    def together(images: NDArray[np.float32]) -> NDArray[Any]:
        """The class of the mean of all copies, for each of them."""
        return np.tile(linear(images.mean(0, keepdims=True)), (len(images), 1))

    distance, images = 0.1, at(0.1, 20)
    fooled = next(certify(together, images[:1], sigma=SIGMA, n=2000))
    assert fooled.radius > 8 * distance
    refused = each_by_itself(together)
    with pytest.raises(DependentVotesError, match="expected the vote of a noisy copy to depend on no other copy"):
        list(certify(refused, images, sigma=SIGMA, n=2000))
    with pytest.raises(DependentVotesError, match="expected the vote"):
        refused(images[:1])
    honest = list(certify(each_by_itself(linear), images, sigma=SIGMA, n=2000))
    assert honest == list(certify(linear, images, sigma=SIGMA, n=2000))


def test_predict_is_wrong_no_more_often_than_alpha_and_abstains_on_the_boundary() -> None:
    alpha, runs = 0.05, 1000
    answers = np.array(list(predict(linear, at(0.1, runs), sigma=SIGMA, n=100, alpha=alpha, seed=2)))
    assert (answers == 1).sum() <= binom.ppf(0.999, runs, alpha)
    assert (answers == 0).mean() > 0.2
    on_boundary = np.array(list(predict(linear, at(0.0, runs), sigma=SIGMA, n=100, alpha=alpha, seed=3)))
    assert (on_boundary != ABSTAIN).sum() <= binom.ppf(0.999, runs, alpha)


def test_the_same_seed_gives_the_same_answer_whatever_the_batch_size() -> None:
    images = np.concatenate([at(0.1), at(0.2), at(0.3)])
    runs = [list(certify(linear, images, sigma=SIGMA, n=999, seed=5, batch_size=size)) for size in (1, 7, 256, 5000)]
    assert all(run == runs[0] for run in runs)
    other = list(certify(linear, images, sigma=SIGMA, n=999, seed=6))
    assert other != runs[0]


def test_an_image_has_the_same_certificate_in_any_subset_and_order() -> None:
    images = np.concatenate([at(distance) for distance in (0.1, 0.2, 0.3, 0.4)])
    every = list(certify(linear, images, sigma=SIGMA, n0=7, n=30, seed=5))
    some = list(certify(linear, images[[3, 1]], indices=[3, 1], sigma=SIGMA, n0=7, n=30, seed=5, batch_size=16))
    assert some == [every[3], every[1]]
    answers = list(predict(linear, images, sigma=SIGMA, n=50, seed=5))
    assert list(predict(linear, images[2:], indices=[2, 3], sigma=SIGMA, n=50, seed=5)) == answers[2:]


def test_batches_are_shared_by_images_and_full() -> None:
    sizes = list[int]()

    def counted(images: NDArray[np.float32]) -> NDArray[Any]:
        sizes.append(len(images))
        return linear(images)

    assert len(list(certify(counted, at(0.3, 10), sigma=SIGMA, n0=3, n=30, batch_size=64))) == 10
    assert sizes == [64] * 5 + [10]


def test_top_k_counts_votes_for_any_of_the_k_most_frequent_classes() -> None:
    x = np.array([[[[0.4, 0.0]]]], np.float32)
    one, two, four = (
        next(iter(certify(five_classes, x, sigma=SIGMA, n=4000, top_k=k, batch_size=100))) for k in (1, 2, 4)
    )
    votes = np.bincount(five_classes(x[0] + SIGMA * np.random.default_rng(1).normal(size=(10**6, 1, 2))).argmax(1))
    assert set(two.classes) == {2, 3}
    assert one.classes == two.classes[:1] == (one.guess if one.label != ABSTAIN else one.classes[0],)
    assert two.label == two.classes[0]
    assert len(set(four.classes)) == 4
    for certificate in (one, two, four):
        truth = votes[list(certificate.classes)].sum() / 10**6
        assert certificate.p_lower == pytest.approx(truth, abs=0.04)
        assert certificate.p_lower <= truth + 0.002
    assert one.radius < two.radius == SIGMA * norm.ppf(two.p_lower) < four.radius


@pytest.mark.parametrize("top_k", [0, 5])
def test_top_k_must_leave_a_class_out(top_k: int) -> None:
    x = np.zeros((1, 1, 1, 2), np.float32)
    with pytest.raises(MonteCarloError, match=f"top_k: expected 1 to 4 for 5 classes, got {top_k}"):
        list(certify(five_classes, x, sigma=SIGMA, top_k=top_k))


def test_scores_that_are_no_numbers_are_votes_for_no_class() -> None:
    """The largest of scores with a NaN would be the NaN: a broken network was certified as its class, far and wide."""

    def broken(images: NDArray[np.float32]) -> NDArray[Any]:
        return np.full((len(images), 3), np.nan)

    def broken_on_one_side(images: NDArray[np.float32]) -> NDArray[Any]:
        scores = linear(images)
        scores[scores[:, 0] < 0, 1] = np.nan  # all votes that are left are for class 0
        return scores

    (certificate,) = certify(broken, at(0.0), sigma=SIGMA)
    assert (certificate.label, certificate.radius, certificate.p_lower) == (ABSTAIN, 0.0, 0.0)
    assert list(predict(broken, at(0.0), sigma=SIGMA)) == [ABSTAIN]
    (half,) = certify(broken_on_one_side, at(0.0), sigma=SIGMA)
    assert half.label == ABSTAIN
    assert half.p_lower == pytest.approx(0.5, abs=0.03)


def test_a_radius_can_be_stated_in_grey_levels() -> None:
    certificate = next(iter(certify(linear, at(100.0), sigma=SIGMA, n=1000)))
    assert certificate.grey_levels == 255 * certificate.radius


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, "sigma > 0"),
        ({"n": 0}, "sample sizes ≥ 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"alpha": 0.0}, "alpha: expected a number between 0 and 1, got 0"),
        ({"indices": [1, 2]}, "indices: expected 1 numbers from 0, one an image, got 2, the least 1"),
        ({"indices": [2**32]}, "indices: expected at most 2³² − 1 and at least 0, got 4294967296"),
        ({"seed": 2**32}, "seed: expected at most 2³² − 1 and at least 0, got 4294967296"),
        ({"seed": -1}, "seed: expected at most 2³² − 1 and at least 0, got -1"),
        ({"indices": [-1]}, "indices: expected 1 numbers from 0, one an image, got 1, the least -1"),
    ],
)
def test_refuses_what_means_nothing(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MonteCarloError, match=message):
        list(certify(linear, at(1.0), **{"sigma": SIGMA, **arguments}))
