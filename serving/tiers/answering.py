"""The answer to one image of a request to a tier, from the single pass and from what the votes say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.outcome import Ending, Outcome
from heatserve.export.contract import INVALID_LABEL
from heatserve.export.tiers import NO_SAMPLING, Tier, TierModel, TierReason, tier_tensors
from heatserve.serving.tiers.questions import CheckedQuestion
from heatserve.serving.vote_protocol import Finding, ProtocolError


@dataclass(frozen=True)
class ImageAnswer:
    """What is answered to one image: the fields are `TIER_TENSORS`."""

    label: int
    alpha: float
    tier: Tier
    reason: TierReason = TierReason.DEADLINE
    outcome: Outcome = Outcome.UNDECIDED
    proven_radius: float = 0.0
    votes: int = 0
    sampling: str = NO_SAMPLING
    certified_radius: float = 0.0
    p_lower: float = 0.0
    classes: tuple[int, ...] = ()


def with_finding(
    answer: ImageAnswer, finding: Finding, question: CheckedQuestion, kind: TierModel, *, classes: int
) -> ImageAnswer:
    """The answer once a finding is there; one that cannot be is refused, and is never a yes.

    Args:
        answer: before.
        finding: what the votes say.
        question: what was asked.
        kind: the tier that was asked.
        classes: K, how many there are.

    Raises:
        ProtocolError: no votes for this question say that.
    """
    reason, most_votes = TierReason(finding.reason), question.n0 + question.n
    is_possible = answer.votes <= finding.votes <= most_votes
    known = replace(answer, votes=finding.votes, sampling=finding.sampling if finding.votes else NO_SAMPLING)
    if kind.asks_radius:
        answer = _confirmed(known, finding, question.radius) if finding.is_final else known
        is_possible &= reason in (*_CONFIRMED, TierReason.TIGHTENING) and finding.is_final is (reason in _CONFIRMED)
    elif reason is TierReason.INVALID:
        answer = replace(known, reason=reason)
    else:
        answer = _with_bound(known, finding) if finding.is_final or kind is TierModel.CERTIFY_STREAM else known
        is_possible &= reason in (TierReason.PROVEN, TierReason.VOTES, TierReason.TIGHTENING)
        is_possible &= finding.is_final is (reason is not TierReason.TIGHTENING)
        is_possible &= len(finding.classes) == question.top_k and all(0 <= c < classes for c in finding.classes)
        is_possible &= 0 <= finding.p_lower <= 1 and finding.radius >= 0
        is_possible &= finding.p_lower > 0.5 if finding.radius else reason is not TierReason.PROVEN
    if not is_possible:
        raise ProtocolError(f"finding: expected one for {question}, found {finding}")
    return answer


_CONFIRMED = {TierReason(ending.value): ending.outcome for ending in Ending}


def _confirmed(answer: ImageAnswer, finding: Finding, radius: float) -> ImageAnswer:
    reason = TierReason(finding.reason)
    outcome = _CONFIRMED.get(reason, Outcome.UNDECIDED)
    return replace(answer, reason=reason, outcome=outcome, proven_radius=_float32_below(radius) if outcome else 0.0)


def _with_bound(answer: ImageAnswer, finding: Finding) -> ImageAnswer:
    """An answer of certify; of a stream's, all of which hold together, the largest bound so far counts."""
    p_lower = max(finding.p_lower, answer.p_lower)
    answer = replace(answer, reason=TierReason(finding.reason), classes=finding.classes, p_lower=p_lower)
    radius = max(_float32_below(finding.radius), answer.proven_radius)
    if not radius:
        return answer
    return replace(answer, label=finding.classes[0], outcome=Outcome.YES, proven_radius=radius)


def _float32_below(number: float) -> float:
    """The largest float32 that is not above a number ≥ 0."""
    nearest = np.float32(number)
    return float(nearest if float(nearest) <= number else np.nextafter(nearest, np.float32(0)))


def tensors_of(answers: Sequence[ImageAnswer], kind: TierModel, *, top_k: int) -> dict[str, NDArray[Any]]:
    """The outputs of a tier for N images, by name: [N], and `classes` [N, k]; words as their codes."""
    found = dict[str, NDArray[Any]]()
    for tensor in tier_tensors(kind):
        if tensor.is_list:
            rows = [answer.classes or (INVALID_LABEL,) * top_k for answer in answers]
            found[tensor.name] = np.array(rows, tensor.dtype)
            continue
        values = [getattr(answer, tensor.name) for answer in answers]
        if tensor.words:
            values = [tensor.words.index(value if isinstance(value, str) else value.value) for value in values]
        found[tensor.name] = np.array(values, tensor.dtype)
    return found
