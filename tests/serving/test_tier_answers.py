"""What the client makes of the tensors of a tier: the answer, or an error that names what is wrong with it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_tiers import code_of
from numpy.typing import NDArray

from heatserve.certification.outcome import Outcome
from heatserve.export.tiers import TIER_TENSORS, Mode, Tier, TierModel, TierReason, tier_tensors
from heatserve.serving.client.events import read_event
from heatserve.serving.client.tier_answers import TierAnswer, TighteningBounds, read_tier_answers
from heatserve.serving.client.tier_questions import TierQuestion
from heatserve.serving.errors import ServingError

NAMES = {0: "cat", 1: "dog"}
RADIUS = 0.1  # no float32
CONFIRM = TierQuestion(TierModel.CONFIRM, radius=RADIUS)
CERTIFY = TierQuestion(TierModel.CERTIFY)
STREAM = TierQuestion(TierModel.CERTIFY_STREAM)
CLAIMED = TierQuestion(TierModel.CASCADE, radius=RADIUS, mode=Mode.CLAIMED)
ANY = TierQuestion(TierModel.CASCADE, radius=RADIUS, mode=Mode.ANY)

YES: dict[str, Any] = {
    "label": 1,
    "outcome": "yes",
    "proven_radius": np.float32(RADIUS),
    "votes": 32,
    "alpha": 1e-6,
    "tier": "confirm",
    "reason": "proven",
    "sampling": "grid",
    "certified_radius": 0.15,
}
UNDECIDED = {**YES, "outcome": "undecided", "proven_radius": 0.0, "reason": "votes"}
BOUND = {**YES, "tier": "certify", "proven_radius": 0.3, "p_lower": 0.9, "classes": [1], "votes": 1100}
ABSTAINS = {**BOUND, "outcome": "undecided", "proven_radius": 0.0, "label": -1, "reason": "votes", "p_lower": 0.4}
NOT_CLAIMED = {**UNDECIDED, "tier": "one pass", "reason": "not claimed", "votes": 0, "sampling": "none"}


@dataclass
class Raw:
    """The outputs of one request as tritonclient hands them over."""

    outputs: dict[str, NDArray[Any] | None]
    request_id: str = ""
    model_version: str = ""

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        return self.outputs.get(name)


def raw(*answers: dict[str, Any]) -> Raw:
    """The tensors in which a server sends these answers."""
    coded = [{name: code_of(name, value) for name, value in answer.items()} for answer in answers]
    types = {tensor.name: tensor.dtype for tensor in TIER_TENSORS}
    return Raw(
        {name: np.array([answer[name] for answer in coded], types[name]).reshape(len(answers), -1) for name in coded[0]}
    )


def read(question: TierQuestion, *answers: dict[str, Any], most_alpha: float = 1e-6) -> list[TierAnswer]:
    return read_tier_answers(
        raw(*answers), question, images=len(answers), classes=10, most_alpha=most_alpha, names=NAMES
    )


def test_an_answer_is_read_as_the_contract_has_it() -> None:
    yes, undecided = read(CONFIRM, YES, {**UNDECIDED, "label": 7})
    assert yes == TierAnswer(
        label=1,
        class_name="dog",
        outcome=Outcome.YES,
        proven_radius=RADIUS,
        votes=32,
        alpha=1e-6,
        tier=Tier.CONFIRM,
        reason=TierReason.PROVEN,
        sampling="grid",
        certified_radius=float(np.float32(0.15)),
    )
    assert yes
    assert undecided.class_name is None
    assert undecided.proven_radius == 0
    assert not undecided


def test_what_is_proven_is_the_radius_that_was_asked_for_and_not_its_float32() -> None:
    below = np.nextafter(np.float32(RADIUS), np.float32(0))
    for sent in (np.float32(RADIUS), below):
        (answer,) = read(CONFIRM, {**YES, "proven_radius": sent})
        assert answer.proven_radius == RADIUS


def test_numbers_that_are_asked_with_come_back_as_numbers_of_python() -> None:
    values: dict[str, Any] = {"radius": np.float32(RADIUS), "alpha": np.float64(1e-6), "n": np.int64(100)}
    asked = TierQuestion(TierModel.CONFIRM, **values)
    assert [type(value) for value in (asked.radius, asked.alpha, asked.n)] == [float, float, int]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (CONFIRM, {**UNDECIDED, "outcome": "no", "reason": "disproven"}),
        (CONFIRM, {**UNDECIDED, "reason": "hopeless", "votes": 0, "sampling": "none"}),
        (CONFIRM, {**UNDECIDED, "reason": "invalid", "votes": 0, "sampling": "none", "label": -1}),
        (CONFIRM, {**UNDECIDED, "reason": "deadline", "sampling": "float32"}),
        (CLAIMED, YES),
        (CLAIMED, NOT_CLAIMED),
        (ANY, YES),
        (CERTIFY, BOUND),
        (CERTIFY, ABSTAINS),
        (STREAM, {**BOUND, "reason": "tightening"}),
        (STREAM, {**ABSTAINS, "reason": "tightening"}),
    ],
)
def test_other_answers_of_the_contract_are_read(question: TierQuestion, answer: dict[str, Any]) -> None:
    (found,) = read(question, answer)
    assert found.outcome.value == answer["outcome"]
    assert found.reason.value == answer["reason"]
    assert (found.p_lower is None) == (question.radius is not None)


@pytest.mark.parametrize(
    ("question", "answer", "message"),
    [
        (CONFIRM, {**YES, "proven_radius": 0.0}, "proven_radius: expected 0.1, which was asked for, from the server"),
        (CONFIRM, {**YES, "proven_radius": 0.2}, "proven_radius: expected 0.1, which was asked for, from the server"),
        (CONFIRM, {**YES, "proven_radius": np.nan}, "proven_radius: expected 0.1"),
        (CONFIRM, {**UNDECIDED, "proven_radius": 0.1}, "proven_radius: expected 0 with the outcome undecided"),
        (CONFIRM, {**YES, "label": -1}, "label: expected 0 to 9 with the outcome yes from the server, found -1"),
        (CONFIRM, {**YES, "label": 10}, "label: expected 0 to 9 with the outcome yes from the server, found 10"),
        (CONFIRM, {**UNDECIDED, "label": -2}, "label: expected -1 to 9"),
        (CONFIRM, {**YES, "alpha": 1e-5}, "alpha: expected a probability above 0, at most 1e-06 from the server"),
        (CONFIRM, {**YES, "alpha": 0.0}, "alpha: expected a probability above 0"),
        (CONFIRM, {**YES, "alpha": np.nan}, "alpha: expected a probability above 0"),
        (CONFIRM, {**YES, "votes": 0, "sampling": "none"}, "votes: expected some with the outcome yes"),
        (CONFIRM, {**UNDECIDED, "votes": -1}, "votes: expected no fewer than 0"),
        (CONFIRM, {**YES, "sampling": "none"}, "sampling: expected grid or float32 for 32 votes"),
        (
            CONFIRM,
            {**YES, "sampling": 3},
            "sampling: expected one of 0 (none), 1 (grid), 2 (float32) from the server",
        ),
        (CONFIRM, {**YES, "tier": "one pass"}, "tier: expected confirm from the server, found one pass"),
        (CONFIRM, {**YES, "tier": "certify"}, "tier: expected confirm from the server, found certify"),
        (CONFIRM, {**YES, "tier": 3}, "tier: expected one of 0 (one pass), 1 (confirm), 2 (certify) from the server"),
        (
            CONFIRM,
            {**YES, "outcome": 3},
            "outcome: expected one of 0 (undecided), 1 (yes), 2 (no) from the server",
        ),
        (CONFIRM, {**YES, "outcome": -1}, "outcome: expected one of 0 (undecided), 1 (yes), 2 (no) from the server"),
        (CONFIRM, {**YES, "reason": "votes"}, "reason: expected proven with the outcome yes"),
        (CONFIRM, {**YES, "reason": 8}, "reason: expected one of 0 (proven), 1 (disproven), 2 (hopeless)"),
        (CONFIRM, {**UNDECIDED, "reason": "proven"}, "reason: expected votes or deadline or invalid or hopeless with"),
        (CONFIRM, {**UNDECIDED, "outcome": "no"}, "reason: expected disproven with the outcome no"),
        (CONFIRM, {**NOT_CLAIMED, "tier": "confirm"}, "reason: expected votes or deadline or invalid or hopeless"),
        (CONFIRM, {**YES, "certified_radius": np.inf}, "certified_radius: expected a finite radius"),
        (CONFIRM, {**YES, "certified_radius": np.nan}, "certified_radius: expected a finite radius"),
        (CLAIMED, {**YES, "tier": "one pass"}, "tier: expected confirm from the server, found one pass"),
        (CLAIMED, {**NOT_CLAIMED, "outcome": "yes", "proven_radius": 0.1}, "votes: expected some"),
        (ANY, NOT_CLAIMED, "reason: expected votes or deadline or invalid or hopeless"),
        (CERTIFY, {**BOUND, "tier": "confirm"}, "tier: expected certify from the server, found confirm"),
        (CERTIFY, {**BOUND, "proven_radius": 0.0}, "proven_radius: expected a finite radius above 0"),
        (CERTIFY, {**BOUND, "proven_radius": np.inf}, "proven_radius: expected a finite radius above 0"),
        (CERTIFY, {**BOUND, "p_lower": 0.5}, "p_lower: expected a probability with the outcome yes"),
        (CERTIFY, {**BOUND, "p_lower": 1.5}, "p_lower: expected a probability with the outcome yes"),
        (CERTIFY, {**BOUND, "p_lower": np.nan}, "p_lower: expected a probability with the outcome yes"),
        (CERTIFY, {**BOUND, "classes": [2]}, "classes: expected 1 classes, the label 1 the first, from the server"),
        (CERTIFY, {**BOUND, "classes": [1, 2]}, "classes: expected 1 classes, the label 1 the first, from the server"),
        (CERTIFY, {**BOUND, "classes": [10]}, "classes: expected classes from 0 to 9"),
        (CERTIFY, {**BOUND, "reason": "tightening"}, "reason: expected proven with the outcome yes"),
        (CERTIFY, {**ABSTAINS, "outcome": "no"}, "outcome: expected yes or undecided from the server, found no"),
        (STREAM, {**BOUND, "reason": "hopeless"}, "reason: expected proven or tightening or deadline or votes"),
    ],
)
def test_an_answer_that_contradicts_itself_or_the_question_is_refused(
    question: TierQuestion, answer: dict[str, Any], message: str
) -> None:
    with pytest.raises(ServingError, match=re.escape(message)):
        read(question, answer)


@pytest.mark.parametrize("question", [CONFIRM, CERTIFY])
def test_an_output_that_is_missing_or_of_another_type_or_shape_is_refused(question: TierQuestion) -> None:
    answer = {**YES, **BOUND} if question is CERTIFY else YES
    for tensor in tier_tensors(question.kind):
        good = raw(answer, answer)
        sent = good.outputs[tensor.name]
        assert sent is not None
        other = np.dtype(np.int32) if tensor.datatype != "INT64" else np.dtype(np.float32)
        for false in (
            None,
            sent[:1],
            sent[:, 0],
            sent[:, :, None],
            sent[:, :0],
            *([] if tensor.is_list else [np.repeat(sent, 2, axis=1)]),
            np.ones(sent.shape, other),
        ):
            good.outputs[tensor.name] = false
            with pytest.raises(ServingError, match=rf"^{tensor.name}: expected"):
                read_tier_answers(good, question, images=2, classes=10, most_alpha=1e-6, names=NAMES)


_NUMBERS = st.sampled_from([-1.0, 0.0, RADIUS, 0.15, 0.6, 1.0, 1e-6, np.inf, np.nan])
_FALSE = {
    "INT64": st.integers(-2, 12),
    "FP32": _NUMBERS,
    "FP64": _NUMBERS,
}


@given(st.data(), st.sampled_from([CONFIRM, CLAIMED, ANY, CERTIFY, STREAM]))
def test_whatever_comes_a_yes_is_one_that_the_contract_knows(data: st.DataObject, question: TierQuestion) -> None:
    answer = dict(YES if question.radius else BOUND)
    for tensor in data.draw(st.lists(st.sampled_from(tier_tensors(question.kind)), max_size=3)):
        value = data.draw(_FALSE[tensor.datatype])
        answer[tensor.name] = [value] if tensor.is_list else value
    try:
        (found,) = read(question, answer)
    except ServingError:
        return
    if not found:
        assert found.proven_radius == 0
        return
    assert 0 <= found.label < 10
    assert 0 < found.proven_radius < np.inf
    assert question.radius is None or found.proven_radius == question.radius
    assert 0 < found.alpha <= 1e-6
    assert found.votes > 0
    assert found.sampling in ("grid", "float32")
    assert found.tier is (Tier.CERTIFY if question.radius is None else Tier.CONFIRM)


def bound(**changes: Any) -> TierAnswer:
    (answer,) = read(STREAM, {**BOUND, "reason": "tightening", **changes})
    return answer


def test_a_stream_may_only_say_more() -> None:
    bounds = TighteningBounds()
    (nothing_yet,) = read(STREAM, {**ABSTAINS, "reason": "tightening", "votes": 100})
    for answer in (nothing_yet, bound(votes=200), bound(votes=300, proven_radius=0.4)):
        assert bounds.checked(answer) is answer
        assert not bounds.has_ended
    with pytest.raises(ServingError, match="until one that is the last, found the end of the stream"):
        bounds.last()
    bounds.checked(bound(votes=300, proven_radius=0.4, reason="proven"))
    assert bounds.has_ended
    bounds.last()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proven_radius": 0.2}, r"proven_radius: expected at least 0\.3"),
        ({"votes": 200}, "votes: expected at least 1100, as in the answer before, found 200"),
        ({"label": 2, "classes": [2]}, r"classes: expected \(1,\), as in the answer before, found \(2,\)"),
    ],
)
def test_a_stream_that_takes_back_what_it_said_is_refused(changes: dict[str, Any], message: str) -> None:
    bounds = TighteningBounds()
    bounds.checked(bound())
    with pytest.raises(ServingError, match=message):
        bounds.checked(bound(**changes))


def test_a_stream_that_takes_back_a_yes_is_refused() -> None:
    bounds = TighteningBounds()
    bounds.checked(bound())
    (abstains,) = read(STREAM, ABSTAINS)
    with pytest.raises(ServingError, match=r"proven_radius: expected at least 0\.3"):
        bounds.checked(abstains)


def event(**changes: Any) -> bytes:
    """A line of server-sent events as Triton writes it."""
    answer = {name: code_of(name, value) for name, value in BOUND.items()}
    return b"data: " + json.dumps({"model_name": "x", **answer, "classes": 1, **changes}).encode() + b"\n"


def read_line(line: bytes) -> TierAnswer:
    (answer,) = read_tier_answers(read_event(line), STREAM, images=1, classes=10, most_alpha=1e-6, names=NAMES)
    return answer


def test_an_event_is_read_like_tensors() -> None:
    assert read_line(event()) == read(STREAM, BOUND)[0]
    assert read_line(event(classes=[1])) == read(STREAM, BOUND)[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"data: [1]\n", "expected an event `data: {…}` from the server, found b'data: [1]"),
        (b"event: {}\n", "expected an event `data: {…}` from the server"),
        (b"data: {\n", "expected an event `data: {…}` from the server"),
        (event(label="1"), "label: expected a tensor from the server, found one that cannot be read: INT64 expected"),
        (event(label=True), "label: expected a tensor from the server, found one that cannot be read"),
        (event(label=1.0), "label: expected a tensor from the server, found one that cannot be read"),
        (event(label=2**63), "label: expected a tensor from the server, found one that cannot be read"),
        (event(label=[1, 1]), "label: expected INT64 [1, 1] from the server, found int64 [1, 2]"),
        (event(label=[]), "label: expected INT64 [1, 1] from the server, found int64 [1, 0]"),
        (event(outcome="yes"), "outcome: expected a tensor from the server, found one that cannot be read"),
        (event(outcome=3), "outcome: expected one of 0 (undecided), 1 (yes), 2 (no) from the server, found 3"),
        (event(proven_radius=None), "proven_radius: expected a tensor from the server"),
        (event(proven_radius=float("nan")), "proven_radius: expected a finite radius above 0"),
        (event(p_lower=0.2), "p_lower: expected a probability with the outcome yes"),
        (event(classes=[]), "classes: expected INT64 [1, k] from the server, found int64 [1, 0]"),
    ],
)
def test_an_event_that_is_no_answer_is_refused(line: bytes, message: str) -> None:
    with pytest.raises(ServingError, match=re.escape(message)):
        read_line(line)
