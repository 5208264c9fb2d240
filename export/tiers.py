"""The tiers of a served model beside its single pass: names, questions, answers and limits (docs/served-graph.md).

Beside a model `NAME` its repository holds up to four further models, which ask the base classifier for votes:

    NAME_confirm          is the class of the single pass proven within a radius? tens to hundreds of votes
    NAME_certify          class and largest radius, as Certify of Cohen et al. (2019) finds them: n₀ + n votes
    NAME_certify_stream   the same question, answered with bounds that tighten, over a stream
    NAME_cascade          the single pass, and then confirm, where the caller needs it

The configuration of the repository, the backend and the client take all of this from here. Needs numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Literal

import numpy as np

from heatserve.certification.errors import HeatserveError
from heatserve.certification.outcome import Ending


class TierModel(str, Enum):
    """The kinds of models beside a single pass, by what follows its name and an underscore."""

    CONFIRM = "confirm"
    CERTIFY = "certify"
    CERTIFY_STREAM = "certify_stream"
    CASCADE = "cascade"

    @property
    def asks_radius(self) -> bool:
        """Whether a request states the radius that is to be proven; the other kinds find one, by Certify."""
        return self in (TierModel.CONFIRM, TierModel.CASCADE)

    def beside(self, model: str) -> str:
        """The name of the model of this kind beside the model of that name."""
        return f"{model}_{self.value}"


def tier_of(name: str) -> tuple[str, TierModel] | None:
    """The model and the kind that the name of a tier is made of; None: it is not such a name."""
    for kind in TierModel:
        model = name.removesuffix(f"_{kind.value}")
        if model and model != name:
            return model, kind
    return None


class Tier(str, Enum):
    """What stands behind an answer: the output `tier`."""

    ONE_PASS = "one pass"
    CONFIRM = "confirm"
    CERTIFY = "certify"


class Mode(str, Enum):
    """When a cascade asks for votes: the parameter `mode`."""

    CLAIMED = "claimed"
    """Only where the single pass serves at least the radius."""
    ANY = "any"
    """Always."""


class TierReason(str, Enum):
    """Why an answer is what it is: the output `reason`."""

    PROVEN = Ending.PROVEN.value
    DISPROVEN = Ending.DISPROVEN.value
    HOPELESS = Ending.HOPELESS.value
    VOTES = Ending.VOTES.value
    DEADLINE = "deadline"
    NOT_CLAIMED = "not claimed"
    TIGHTENING = "tightening"
    INVALID = "invalid"

    @property
    def explanation(self) -> str:
        """The reason, for somebody who reads an answer."""
        return {
            TierReason.PROVEN: "the votes prove the answer for every image within the radius",
            TierReason.DISPROVEN: "the votes prove that this class is not certified at the radius",
            TierReason.HOPELESS: "given up: the votes so far leave too little hope of a proof",
            TierReason.VOTES: "not decided by as many votes as were allowed",
            TierReason.DEADLINE: "not decided before the deadline",
            TierReason.NOT_CLAIMED: "not asked: the single pass itself serves a smaller radius",
            TierReason.TIGHTENING: "holds already; more votes may prove more",
            TierReason.INVALID: "the network answers no class",
        }[self]


@dataclass(frozen=True)
class TierTensor:
    """One output of a tier; each image has one value, or for `classes` several."""

    name: str
    datatype: Literal["INT64", "FP32", "FP64"]
    """As Triton's configuration names it. None is text: Triton 2.51 ends (SIGFPE) where a client asks for the classes
    (`class_count`) of an output of text."""
    kinds: tuple[TierModel, ...] = tuple(TierModel)
    """The models that have it."""
    is_list: bool = False
    words: tuple[str, ...] = ()
    """What its numbers stand for, from 0 on; empty: they are numbers."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type as numpy names it."""
        return np.dtype({"INT64": np.int64, "FP32": np.float32, "FP64": np.float64}[self.datatype])


_ASKING = tuple(kind for kind in TierModel if kind.asks_radius)
_CERTIFYING = tuple(kind for kind in TierModel if not kind.asks_radius)

NO_SAMPLING = "none"
"""The output `sampling` where there were no votes."""

TIER_TENSORS = (
    TierTensor("label", "INT64"),  # the class that is answered; −1 where none is
    TierTensor("outcome", "INT64", words=("undecided", "yes", "no")),
    TierTensor("proven_radius", "FP32"),  # L2, pixels in [0,1]; above 0 only where the outcome is yes
    TierTensor("votes", "INT64"),  # noisy passes of the base classifier that were taken, n₀ included
    TierTensor("alpha", "FP64"),  # the answer yes (or no) is wrong with at most this probability, for each image
    TierTensor("tier", "INT64", words=tuple(tier.value for tier in Tier)),
    TierTensor("reason", "INT64", words=tuple(reason.value for reason in TierReason)),
    TierTensor("sampling", "INT64", words=(NO_SAMPLING, "grid", "float32")),  # how the noise was sampled
    TierTensor("certified_radius", "FP32", _ASKING),  # what the single pass serves
    TierTensor("p_lower", "FP64", _CERTIFYING),  # lower confidence bound on the probability of a vote for `classes`
    TierTensor("classes", "INT64", _CERTIFYING, is_list=True),  # the k classes that most of the n₀ votes are for
)
"""The outputs of the tiers, in their order."""


def tier_tensors(kind: TierModel) -> tuple[TierTensor, ...]:
    """The outputs of one kind of tier."""
    return tuple(tensor for tensor in TIER_TENSORS if kind in tensor.kinds)


def codes_of(kind: TierModel) -> str:
    """What the numbers of a tier's outputs stand for, for somebody who reads its configuration."""
    coded = (tensor for tensor in tier_tensors(kind) if tensor.words)
    return "; ".join(f"{t.name}: {', '.join(f'{code} {word}' for code, word in enumerate(t.words))}" for t in coded)


@dataclass(frozen=True)
class TierLimits:
    """What the operator sets in the parameters of a tier's `config.pbtxt`: defaults of a request, and their limits.

    Attributes:
        alpha: α of a request that states none.
        least_alpha: the smallest α that a request may ask for, since a smaller one takes more votes.
        most_alpha: the largest, since a larger one promises less.
        n: most votes for one image where the request does not say; for certify, exactly so many.
        most_n: the largest n that a request may ask for.
        n0: votes for the guess of certify; of no meaning to the others.
        most_n0: the largest n₀ that a request may ask for.
        deadline_ms: milliseconds after which an image is answered undecided, where the request does not say.
        most_deadline_ms: the largest deadline that a request may ask for.
        queue: images that may wait for votes at once; more are refused.
        sampling: `any`, or `grid`: images that are not of 8 bits are refused.
    """

    alpha: float = 1e-6
    least_alpha: float = 1e-9
    most_alpha: float = 1e-3
    n: int = 1_000
    most_n: int = 100_000
    n0: int = 100
    most_n0: int = 1_000
    deadline_ms: int = 10_000
    most_deadline_ms: int = 60_000
    queue: int = 256
    sampling: Literal["any", "grid"] = "any"


_GUESS_LIMITS = ("n0", "most_n0")
_PAIRS = (
    ("least_alpha", "alpha"),
    ("alpha", "most_alpha"),
    ("n", "most_n"),
    ("n0", "most_n0"),
    ("deadline_ms", "most_deadline_ms"),
)
"""Limits of which the first may not be above the second."""
_MOST_COUNT = 10**9


def limit_names(kind: TierModel) -> tuple[str, ...]:
    """The limits that mean something to one kind of tier, by their parameters: only certify guesses with n₀ votes."""
    names = (field.name for field in fields(TierLimits))
    return tuple(name for name in names if not (kind.asks_radius and name in _GUESS_LIMITS))


def parse_limits(parameters: Mapping[str, str]) -> TierLimits:
    """The limits in the parameters of a tier's configuration; those that are not there have their defaults.

    Raises:
        HeatserveError: a limit is invalid, two contradict each other, or nothing could be proven; names the parameter.
    """
    parsers: dict[type, Callable[[str, str], Any]] = {float: _share, int: _count, str: _sampling}
    found = {
        field.name: parsers[type(field.default)](field.name, parameters[field.name])
        for field in fields(TierLimits)
        if field.name in parameters
    }
    limits = TierLimits(**found)
    for smaller, larger in _PAIRS:
        least, most = getattr(limits, smaller), getattr(limits, larger)
        if least > most:
            raise HeatserveError(f"{smaller}: expected at most {larger}, {most:g}, found {least:g}")
    needed = fewest_votes(limits.alpha)
    if limits.n < needed:
        raise HeatserveError(
            f"n: expected at least {needed}, since fewer votes prove nothing at alpha = {limits.alpha:g}, found "
            f"{limits.n}"
        )
    return limits


def fewest_votes(alpha: float) -> int:
    """Votes that prove some radius if all of them are for one class: its Clopper-Pearson bound α^(1/n) is above ½."""
    return math.floor(-math.log2(alpha)) + 1


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 0.5:
        raise HeatserveError(f"{name}: expected a number above 0 and below 0.5, found {text!r}")
    return value


def _count(name: str, text: str) -> int:
    digits = text if text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST_COUNT)) else "0"
    if not 1 <= int(digits) <= _MOST_COUNT:
        raise HeatserveError(f"{name}: expected a whole number from 1 to {_MOST_COUNT}, found {text!r}")
    return int(digits)


def _sampling(name: str, text: str) -> str:
    if text not in ("any", "grid"):
        raise HeatserveError(f"{name}: expected any or grid, found {text!r}")
    return text
