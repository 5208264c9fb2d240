"""What a request to a tier asks, from its parameters, checked against the limits that the operator set."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from heatserve.certification.confirming import MOST_SIGMAS, votes_needed
from heatserve.certification.noise import GRID
from heatserve.export.tiers import Mode, TierLimits, TierModel, fewest_votes
from heatserve.serving.errors import ServingError

_BOTH = ("alpha", "n", "deadline_ms")
PARAMETERS = {
    TierModel.CONFIRM: ("radius", *_BOTH),
    TierModel.CERTIFY: (*_BOTH, "n0", "top_k"),
    TierModel.CERTIFY_STREAM: (*_BOTH, "n0", "top_k"),
    TierModel.CASCADE: ("radius", *_BOTH, "mode"),
}
"""The parameters that a request to each kind of tier may have; those with a radius need it."""
_LEAST_RADIUS = float(np.finfo(np.float32).tiny)  # an answer could not state a smaller one but as 0
_LONGEST_NAME = 40


class QuestionError(ServingError):
    """A request that means nothing, or is beyond the operator's limits.

    Attributes:
        faults: what is wrong with it, as `heatserve_invalid_inputs_total` says it.
    """

    def __init__(self, message: str, *, faults: Collection[str] = ("parameters",)) -> None:
        super().__init__(message)
        self.faults = faults


@dataclass(frozen=True)
class CheckedQuestion:
    """What a request asks about each of its images."""

    alpha: float
    n: int
    deadline_ms: int
    radius: float = 0.0
    """L2, pixels in [0,1]: what was asked for, or the float32 nearest to it, which the answer states, if larger."""
    mode: Mode = Mode.ANY
    n0: int = 0
    top_k: int = 1


@dataclass(frozen=True)
class QuestionRules:
    """What the parameters of a request to one tier of one model are checked against."""

    kind: TierModel
    limits: TierLimits
    sigma: float
    classes: int
    shape: tuple[int, ...]
    """[C, H, W] of an image as the network takes it."""

    def question(self, parameters: str) -> CheckedQuestion:
        """What a request with these parameters, a JSON object, asks.

        Raises:
            QuestionError: names the parameter, what was expected and what came.
        """
        try:
            given: Mapping[str, Any] = json.loads(parameters or "{}")
        except ValueError:  # Triton writes NaN and infinities as what is not JSON
            raise QuestionError("parameters: expected text and finite numbers, got others") from None
        unknown = sorted(set(given) - set(PARAMETERS[self.kind]))
        if unknown:
            raise QuestionError(
                f"{_named(unknown[0])}: expected no parameters but {', '.join(PARAMETERS[self.kind])}, got this one"
            )
        limits = self.limits
        alpha = _number(given, "alpha", limits.alpha, least=limits.least_alpha, most=limits.most_alpha)
        n = _count(given, "n", limits.n, least=1, most=limits.most_n)
        deadline_ms = _count(given, "deadline_ms", limits.deadline_ms, least=0, most=limits.most_deadline_ms)
        if self.kind.asks_radius:
            radius = self._radius(given)
            mode = Mode.ANY if self.kind is TierModel.CONFIRM else _mode(given)
            question = CheckedQuestion(alpha, n, deadline_ms, radius=radius, mode=mode)
        else:
            n0 = _count(given, "n0", limits.n0, least=1, most=limits.most_n0)
            top_k = _count(given, "top_k", 1, least=1, most=self.classes - 1)
            question = CheckedQuestion(alpha, n, deadline_ms, n0=n0, top_k=top_k)
        if deadline_ms:  # with no time, nothing is proven anyhow
            self._check_provable(question)
        return question

    def _radius(self, given: Mapping[str, Any]) -> float:
        if "radius" not in given:
            raise QuestionError("radius: expected the L2 radius to prove, pixels in [0,1], got no such parameter")
        most = MOST_SIGMAS * self.sigma
        asked = _parsed(given["radius"])
        if not _LEAST_RADIUS <= asked <= most:
            raise QuestionError(
                f"radius: expected a number above 0, at most {most:g} ({MOST_SIGMAS} sigma), got "
                f"{given['radius']!r:.80}"
            )
        return min(max(asked, float(np.float32(asked))), most)

    def _check_provable(self, question: CheckedQuestion) -> None:
        """Refuse what no votes could prove, not even if all of them agreed."""
        votes, alpha = question.n0 + question.n, question.alpha
        spent = votes * GRID.variation(math.prod(self.shape), sigma=self.sigma)
        if spent >= alpha:
            raise QuestionError(
                f"alpha: expected above {spent:.3g}, by which the noise of {votes} votes may err, got {alpha:g}"
            )
        if question.radius:
            needed = votes_needed(question.radius, sigma=self.sigma, alpha=alpha - spent)
        else:
            needed = fewest_votes(alpha - spent)
        if needed > question.n:
            what = f"radius {question.radius:g}" if question.radius else "any radius"
            advice = "ask for more"
            if needed > self.limits.most_n:
                advice = f"most_n of this model is {self.limits.most_n}: ask for a smaller radius or a larger alpha"
            raise QuestionError(
                f"n: expected at least {needed} votes, since {what} takes so many at alpha = {alpha:g} even if all of "
                f"them agree, got {question.n}; {advice}"
            )


def _named(name: str) -> str:
    """A name that a client chose, in an error: a line, and short, since an error takes memory and headers of a size."""
    is_plain = len(name) <= _LONGEST_NAME and name.isprintable() and name
    return name if is_plain else f"{name[:_LONGEST_NAME]!a}{'…' if len(name) > _LONGEST_NAME else ''}"


def _number(given: Mapping[str, Any], name: str, default: float, *, least: float, most: float) -> float:
    value = given.get(name, default)
    number = _parsed(value)
    if not least <= number <= most:
        raise QuestionError(f"{name}: expected a number from {least:g} to {most:g}, got {value!r:.80}")
    return number


def _count(given: Mapping[str, Any], name: str, default: int, *, least: int, most: int) -> int:
    value = given.get(name, default)
    number = _parsed(value)
    if not least <= number <= most or number != int(number):
        expected = f"a whole number from {least} to {most}" if least < most else f"{most}, which is the only one"
        raise QuestionError(f"{name}: expected {expected}, got {value!r:.80}")
    return int(number)


def _parsed(value: object) -> float:
    """A number, also one as text, since not every client can send others; NaN where it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _mode(given: Mapping[str, Any]) -> Mode:
    value = given.get("mode", Mode.CLAIMED.value)
    try:
        return Mode(value)
    except ValueError:
        names = " or ".join(mode.value for mode in Mode)
        raise QuestionError(f"mode: expected {names}, got {value!r:.80}") from None
