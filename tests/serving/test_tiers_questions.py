"""What a request asks of a tier: each parameter is checked, and a refusal names it, what was expected and what came."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tiny_model import SHAPE, SIGMA

from heatserve.certification.confirming import votes_needed
from heatserve.export.tiers import Mode, TierLimits, TierModel
from heatserve.serving.tiers.questions import CheckedQuestion, QuestionError, QuestionRules

LIMITS = TierLimits()


def asked(kind: TierModel, limits: TierLimits = LIMITS, **parameters: object) -> CheckedQuestion:
    rules = QuestionRules(kind, limits, sigma=SIGMA, classes=10, shape=SHAPE)
    return rules.question(json.dumps(parameters) if parameters else "")


@pytest.mark.parametrize("radius", [0.125, "0.125", "1.25e-1"])
def test_what_a_request_does_not_say_is_the_operators(radius: object) -> None:
    limits = TierLimits(alpha=1e-4, n=200, deadline_ms=123)
    question = asked(TierModel.CONFIRM, limits, radius=radius)
    assert question == CheckedQuestion(1e-4, 200, 123, radius=0.125)
    assert asked(TierModel.CASCADE, limits, radius=radius).mode is Mode.CLAIMED
    assert asked(TierModel.CERTIFY, limits) == CheckedQuestion(1e-4, 200, 123, n0=limits.n0)


def test_numbers_may_come_as_text() -> None:
    question = asked(TierModel.CERTIFY_STREAM, n="2000", n0=50.0, top_k="2", alpha="1e-3", deadline_ms=0)
    assert question == CheckedQuestion(1e-3, 2000, 0, n0=50, top_k=2)
    assert asked(TierModel.CASCADE, radius=0.1, mode="any").mode is Mode.ANY


@pytest.mark.parametrize("radius", [0.1, 0.7, 1 / 3])
def test_what_is_proven_is_at_least_what_is_stated(radius: float) -> None:
    """The answer states a float32, which may be above the number that was asked for."""
    question = asked(TierModel.CONFIRM, TierLimits(n=100_000), radius=radius)
    assert question.radius == max(radius, float(np.float32(radius)))


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("confirm", {}, "radius: expected the L2 radius to prove, pixels in [0,1], got no such parameter"),
        ("confirm", {"radius": 0}, "radius: expected a number above 0, at most 2 (8 sigma), got 0"),
        ("confirm", {"radius": -1}, "radius: expected a number above 0, at most 2 (8 sigma), got -1"),
        ("confirm", {"radius": 2.1}, "radius: expected a number above 0, at most 2 (8 sigma), got 2.1"),
        ("confirm", {"radius": "nan"}, "radius: expected a number above 0, at most 2 (8 sigma), got 'nan'"),
        ("confirm", {"radius": "x" * 10**5}, "radius: expected a number above 0, at most 2 (8 sigma), got 'xxx"),
        ("confirm", {"radius": True}, "radius: expected a number above 0, at most 2 (8 sigma), got True"),
        ("confirm", {"radius": None}, "radius: expected a number above 0, at most 2 (8 sigma), got None"),
        ("confirm", {"radius": [0.1]}, "radius: expected a number above 0, at most 2 (8 sigma), got [0.1]"),
        ("confirm", {"radius": 1e-46}, "radius: expected a number above 0, at most 2 (8 sigma), got 1e-46"),
        ("confirm", {"x" * 10**7: 1}, f"'{'x' * 40}'…: expected no parameters but radius"),
        ("confirm", {"a\nb": 1}, "'a\\nb': expected no parameters but radius"),
        ("confirm", {"radius": 0.1, "alpha": 0}, "alpha: expected a number from 1e-09 to 0.001, got 0"),
        ("confirm", {"radius": 0.1, "alpha": 0.01}, "alpha: expected a number from 1e-09 to 0.001, got 0.01"),
        ("confirm", {"radius": 0.1, "n": 100_001}, "n: expected a whole number from 1 to 100000, got 100001"),
        ("confirm", {"radius": 0.1, "n": 99.5}, "n: expected a whole number from 1 to 100000, got 99.5"),
        ("confirm", {"radius": 0.1, "n": 10**400}, "n: expected a whole number from 1 to 100000, got 1000"),
        ("confirm", {"radius": 0.1, "n": "inf"}, "n: expected a whole number from 1 to 100000, got 'inf'"),
        ("confirm", {"radius": 0.1, "deadline_ms": 60_001}, "deadline_ms: expected a whole number from 0 to 60000"),
        ("confirm", {"radius": 0.1, "n0": 10}, "n0: expected no parameters but radius, alpha, n, deadline_ms, got"),
        ("confirm", {"radius": 0.1, "seed": 1}, "seed: expected no parameters but radius"),
        ("cascade", {"radius": 0.1, "mode": "both"}, "mode: expected claimed or any, got 'both'"),
        ("cascade", {"radius": 0.1, "mode": 1}, "mode: expected claimed or any, got 1"),
        ("certify", {"radius": 0.1}, "radius: expected no parameters but alpha, n, deadline_ms, n0, top_k"),
        ("certify", {"n0": 1001}, "n0: expected a whole number from 1 to 1000, got 1001"),
        ("certify", {"top_k": 10}, "top_k: expected a whole number from 1 to 9, got 10"),
        ("certify", {"n": 19}, "n: expected at least 20 votes, since any radius takes so many at alpha = 1e-06"),
    ],
)
def test_what_means_nothing_or_is_beyond_the_limits_is_refused(
    kind: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(QuestionError) as caught:
        asked(TierModel(kind), **parameters)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 300  # gRPC sends it in a header, and Triton through shared memory
    assert len(str(caught.value)) < 300


def test_a_radius_that_no_votes_can_prove_is_refused_with_the_number_that_it_takes() -> None:
    needed = votes_needed(float(np.float32(0.6)), sigma=SIGMA, alpha=1e-6)
    with pytest.raises(
        QuestionError, match=rf"at least {needed} votes, since radius 0\.6 .*, got {needed - 1}; ask for mo"
    ):
        asked(TierModel.CONFIRM, radius=0.6, n=needed - 1)
    assert asked(TierModel.CONFIRM, radius=0.6, n=needed).n == needed
    assert asked(TierModel.CONFIRM, radius=0.6, n=1, deadline_ms=0).deadline_ms == 0
    with pytest.raises(
        QuestionError, match=r"n: expected at least .* most_n of this model is 100000: ask for a smaller r"
    ):
        asked(TierModel.CONFIRM, radius=8 * SIGMA)


def test_of_two_classes_no_more_than_one_can_be_certified() -> None:
    rules = QuestionRules(TierModel.CERTIFY, LIMITS, sigma=SIGMA, classes=2, shape=SHAPE)
    assert rules.question('{"top_k": 1}').top_k == 1
    with pytest.raises(QuestionError, match="top_k: expected 1, which is the only one, got 2"):
        rules.question('{"top_k": 2}')


def test_an_alpha_that_the_noise_itself_may_spend_is_refused() -> None:
    limits = TierLimits(least_alpha=1e-12, most_n=10**6)
    with pytest.raises(QuestionError, match=r"alpha: expected above .* noise of 1000000 votes may err, got 1e-12"):
        asked(TierModel.CONFIRM, limits, radius=0.1, alpha=1e-12, n=10**6)
    assert asked(TierModel.CONFIRM, limits, radius=0.1, alpha=1e-11).alpha == 1e-11
