"""What a tier answers, read: an answer that is not of the contract, or contradicts itself, is an error, never a yes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.outcome import Outcome
from heatserve.export.contract import INVALID_LABEL, CertificateKind
from heatserve.export.tiers import (
    NO_SAMPLING,
    TIER_TENSORS,
    Mode,
    Tier,
    TierModel,
    TierReason,
    TierTensor,
    tier_tensors,
)
from heatserve.serving.client.answers import raw_tensor
from heatserve.serving.client.messages import InferResult
from heatserve.serving.client.tier_questions import TierQuestion
from heatserve.serving.errors import ServingError

_WORDS = {tensor.name: tensor.words for tensor in TIER_TENSORS}
_STREAMED = (TierReason.PROVEN, TierReason.TIGHTENING, TierReason.DEADLINE, TierReason.VOTES)
_E = TypeVar("_E", bound=Enum)


@dataclass(frozen=True)
class TierAnswer:
    """What a tier says of one image. As a condition it is true only where the outcome is yes.

    Attributes:
        label: the class that the answer is about, −1 where there is none.
        class_name: its name, where the server knows it.
        outcome: yes: the class is proven within `proven_radius`; no: the votes for it are proven to be too few for the
            radius that was asked for; undecided: nothing is said.
        proven_radius: L2, pixels in [0,1]: where it is above 0, the smoothed classifier answers `label` for every image
            within it; for `certify` with top_k above 1, one of `classes`. 0 where the outcome is not yes.
        votes: noisy passes of the base classifier that were taken.
        alpha: the outcome is wrong with at most this probability.
        tier: what stands behind the answer.
        reason: why it is what it is.
        sampling: how the noise was sampled: `grid`, which is sound in floating point; `float32`, which rests on an
            assumption; `none` where there were no votes.
        certified_radius: what the single pass serves at this image; None: the tier does not say.
        p_lower: lower confidence bound on the probability of a vote for `classes`; None: the tier does not say.
        classes: the k classes that `certify` is about, the most frequent first; empty: the tier does not say.
    """

    label: int
    class_name: str | None
    outcome: Outcome
    proven_radius: float
    votes: int
    alpha: float
    tier: Tier
    reason: TierReason
    sampling: str
    certified_radius: float | None = None
    p_lower: float | None = None
    classes: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Whether the outcome is yes."""
        return bool(self.outcome)

    @property
    def certificate_kind(self) -> CertificateKind:
        """What stands behind its radii: statistics, in each tier; beside a deterministic certificate there is none."""
        return "statistical"

    @property
    def explanation(self) -> str:
        """The reason in words."""
        if self and self.reason is TierReason.DEADLINE:
            return "the deadline has passed; what was proven until then holds"
        return self.reason.explanation


def read_tier_answers(
    answer: InferResult,
    question: TierQuestion,
    *,
    images: int,
    classes: int,
    most_alpha: float,
    names: Mapping[int, str],
) -> list[TierAnswer]:
    """The answers to one request, image by image.

    Args:
        answer: the server's.
        question: what was asked.
        images: N, how many were sent.
        classes: K of the model.
        most_alpha: what α may be: that of the question, or the operator's default.
        names: class names by label; may lack some.

    Raises:
        ServingError: an output is missing or not of the type and shape of the contract, or what the answer says is not
            an answer to the question; names the output.
    """
    columns = {tensor.name: _column(answer, tensor, images) for tensor in tier_tensors(question.kind)}
    found = [_read({name: column[i] for name, column in columns.items()}, names) for i in range(images)]
    for index, one in enumerate(found):
        for name, holds, expected in _rules(one, question, classes=classes, most_alpha=most_alpha):
            if not holds:
                value = getattr(one, name)
                said = value.value if isinstance(value, Enum) else value
                raise ServingError(
                    f"{name}: expected {expected} from the server, found {said} for image {index} of {images}; the "
                    "answer is not one to rely on"
                )
    if question.radius is None:
        return found
    return [replace(one, proven_radius=question.radius) if one else one for one in found]  # and not its float32


class TighteningBounds:
    """The answers of one stream, each of which may only say more than the one before."""

    def __init__(self) -> None:
        """None has come yet."""
        self._last: TierAnswer | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the last answer has come."""
        return self._last is not None and self._last.reason is not TierReason.TIGHTENING

    def checked(self, answer: TierAnswer) -> TierAnswer:
        """The next answer of the stream.

        Raises:
            ServingError: it says less than the one before, or is about other classes.
        """
        last, self._last = self._last, answer
        if last is None:
            return answer
        for name in ("votes", "proven_radius"):
            least, value = getattr(last, name), getattr(answer, name)
            if value < least:
                raise ServingError(f"{name}: expected at least {least}, as in the answer before, found {value}")
        if last and answer.classes != last.classes:
            raise ServingError(f"classes: expected {last.classes}, as in the answer before, found {answer.classes}")
        return answer

    def last(self) -> TierAnswer:
        """The last answer of a stream that has ended.

        Raises:
            ServingError: it is over before that one has come.
        """
        if self._last is None or not self.has_ended:
            raise ServingError(
                "expected answers from the server until one that is the last, found the end of the stream; ask again"
            )
        return self._last


def _column(answer: InferResult, tensor: TierTensor, images: int) -> NDArray[Any]:
    value = raw_tensor(answer, tensor.name)
    shape = (images, value.shape[1] if tensor.is_list and value.ndim == 2 and value.shape[1] else 1)
    if value.shape != shape or value.dtype != tensor.dtype:
        expected = [images, "k" if tensor.is_list else 1]
        raise ServingError(
            f"{tensor.name}: expected {tensor.datatype} {expected} from the server, "
            f"found {value.dtype} {list(value.shape)}".replace("'k'", "k")
        )
    return value


def _read(row: Mapping[str, NDArray[Any]], names: Mapping[int, str]) -> TierAnswer:
    """One image's answer, whose words are known but which may yet contradict itself."""
    label = int(row["label"][0])
    return TierAnswer(
        label=label,
        class_name=names.get(label),
        outcome=_member(Outcome, "outcome", row),
        proven_radius=float(row["proven_radius"][0]),
        votes=int(row["votes"][0]),
        alpha=float(row["alpha"][0]),
        tier=_member(Tier, "tier", row),
        reason=_member(TierReason, "reason", row),
        sampling=_word("sampling", row),
        certified_radius=float(row["certified_radius"][0]) if "certified_radius" in row else None,
        p_lower=float(row["p_lower"][0]) if "p_lower" in row else None,
        classes=tuple(row["classes"].tolist()) if "classes" in row else (),
    )


def _member(words: type[_E], name: str, row: Mapping[str, NDArray[Any]]) -> _E:
    return words(_word(name, row))


def _word(name: str, row: Mapping[str, NDArray[Any]]) -> str:
    """What a code stands for."""
    code, known = int(row[name][0]), _WORDS[name]
    if not 0 <= code < len(known):
        expected = ", ".join(f"{number} ({word})" for number, word in enumerate(known))
        raise ServingError(f"{name}: expected one of {expected} from the server, found {code}")
    return known[code]


def _rules(
    one: TierAnswer, question: TierQuestion, *, classes: int, most_alpha: float
) -> Iterator[tuple[str, bool, str]]:
    """What must hold: an output, whether it is as it must be, and how it must be. NaN is never as it must be."""
    said = f"with the outcome {one.outcome.value}"
    decided = one.outcome is not Outcome.UNDECIDED
    least = 0 if decided else INVALID_LABEL
    answerable = one.outcome is not Outcome.NO or question.radius is not None
    yield "outcome", answerable, "yes or undecided"
    yield "label", least <= one.label < classes, f"{least} to {classes - 1} {said}"
    yield "alpha", 0 < one.alpha <= most_alpha, f"a probability above 0, at most {most_alpha:g}"
    yield "votes", one.votes >= (1 if decided else 0), f"{'some' if decided else 'no fewer than 0'} {said}"
    sampled = (one.sampling == NO_SAMPLING) == (one.votes == 0)
    yield "sampling", sampled, f"{'none' if one.votes == 0 else 'grid or float32'} for {one.votes} votes"
    tiers = _tiers(one, question)
    yield "tier", one.tier in tiers, " or ".join(tier.value for tier in tiers)
    reasons = _reasons(one, question)
    yield "reason", one.reason in reasons, f"{' or '.join(reason.value for reason in reasons)} {said}"
    if one.certified_radius is not None:
        yield "certified_radius", 0 <= one.certified_radius < math.inf, "a finite radius, at least 0"
    if not one:
        yield "proven_radius", one.proven_radius == 0, f"0 {said}"
    elif question.radius is not None:
        yield (
            "proven_radius",
            _is_radius(one.proven_radius, question.radius),
            f"{question.radius:g}, which was asked for,",
        )
    else:
        yield "proven_radius", 0 < one.proven_radius < math.inf, f"a finite radius above 0 {said}"
    if one.p_lower is not None:
        yield "p_lower", 0 <= one.p_lower <= 1 and (one.p_lower > 0.5 or not one), f"a probability {said}"
        yield from _rules_of_classes(one, question, classes=classes)


def _rules_of_classes(one: TierAnswer, question: TierQuestion, *, classes: int) -> Iterator[tuple[str, bool, str]]:
    known = all((0 if one else INVALID_LABEL) <= label < classes for label in one.classes)
    yield "classes", known, f"classes from 0 to {classes - 1}"
    count = 1 if question.top_k is None else question.top_k
    if one:
        distinct = len(set(one.classes)) == len(one.classes) == count
        yield "classes", distinct and one.label == one.classes[0], f"{count} classes, the label {one.label} the first,"


def _tiers(one: TierAnswer, question: TierQuestion) -> tuple[Tier, ...]:
    """The tiers that the answer may be of."""
    if question.kind is TierModel.CONFIRM:
        return (Tier.CONFIRM,)
    if question.kind is not TierModel.CASCADE:
        return (Tier.CERTIFY,)
    return (Tier.ONE_PASS,) if one.reason is TierReason.NOT_CLAIMED else (Tier.CONFIRM,)


def _reasons(one: TierAnswer, question: TierQuestion) -> tuple[TierReason, ...]:
    """The reasons that the answer may have."""
    if one:
        return _STREAMED if question.kind is TierModel.CERTIFY_STREAM else (TierReason.PROVEN,)
    asks_for_radius = question.radius is not None
    if one.outcome is Outcome.NO:
        return (TierReason.DISPROVEN,)
    left = [TierReason.VOTES, TierReason.DEADLINE, TierReason.INVALID]
    if asks_for_radius:
        left.append(TierReason.HOPELESS)
    if question.kind is TierModel.CERTIFY_STREAM:
        left.append(TierReason.TIGHTENING)
    if question.mode is Mode.CLAIMED and one.votes == 0:
        left.append(TierReason.NOT_CLAIMED)
    return tuple(left)


def _is_radius(found: float, asked: float) -> bool:
    """Whether a float32 is the radius that was asked for, rounded to the nearest or down, and above 0."""
    nearest = np.float32(asked)
    return found > 0 and found in (float(nearest), float(np.nextafter(nearest, np.float32(0))))
