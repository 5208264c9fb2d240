"""What a client asks a tier: the parameters of a request, and what the server tells about the tier."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heatserve.certification.errors import HeatserveError
from heatserve.export.tiers import Mode, TierLimits, TierModel, parse_limits, tier_tensors
from heatserve.serving.batching import batch_limit
from heatserve.serving.client.answers import configuration_read
from heatserve.serving.client.failures import harmless
from heatserve.serving.errors import ServingError

_LARGEST_WHOLE = 2**63 - 1
"""What a parameter of a request can hold."""


@dataclass(frozen=True)
class TierSpec:
    """What the server tells about a tier of a model.

    `name` is that of the tier on the server, `promise` what an answer of it means, in whole sentences (None: the server
    does not say), and `limits` are the operator's: what a request may ask for, and what it gets where it does not say.
    """

    name: str
    kind: TierModel
    max_batch_size: int
    promise: str | None
    limits: TierLimits


@dataclass(frozen=True)
class TierQuestion:
    """What is asked of a tier for each image of a request; None leaves a value to the operator's default.

    Attributes:
        kind: which tier.
        radius: r, in L2 on pixels in [0,1]; confirm and cascade need it.
        alpha: the answer for an image is wrong with at most this probability.
        n: most votes for one image; for certify exactly so many, after n₀.
        n0: votes with which certify guesses the class.
        top_k: certify counts votes for any of the k most frequent classes.
        mode: when a cascade asks for votes.
        deadline: seconds, of the server, until an image that is not decided is answered undecided.
    """

    kind: TierModel
    radius: float | None = None
    alpha: float | None = None
    n: int | None = None
    n0: int | None = None
    top_k: int | None = None
    mode: Mode | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        """Take what counts as a number as one.

        Raises:
            ServingError: a value is none.
        """
        for names, read in ((("radius", "alpha", "deadline"), _finite), (("n", "n0", "top_k"), _whole)):
            for name in names:
                object.__setattr__(self, name, read(name, getattr(self, name)))

    def parameters(self, tier: TierSpec, *, timeout: float) -> dict[str, int | float | str]:
        """The parameters of the request; the server compares them with the operator's limits.

        Args:
            tier: which is asked; its default deadline holds where none is asked for.
            timeout: seconds that the client waits for one request.

        Raises:
            ServingError: the operator allows no such deadline, or the client would give up before the server answers
                undecided.
        """
        self._check_deadline(tier, timeout)
        found: dict[str, int | float | str | None] = {
            **{name: getattr(self, name) for name in ("radius", "alpha", "n", "n0", "top_k")},
            "mode": self.mode and self.mode.value,
            "deadline_ms": _milliseconds(self.deadline),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _check_deadline(self, tier: TierSpec, timeout: float) -> None:
        default, most = tier.limits.deadline_ms / 1000, tier.limits.most_deadline_ms / 1000
        if self.deadline is not None and self.deadline > most:
            raise ServingError(
                f"deadline: expected at most {most:g} s, which is what the operator allows, got {self.deadline:g} s"
            )
        deadline, whose = (default, ", the server's default") if self.deadline is None else (self.deadline, "")
        if not deadline < timeout:
            raise ServingError(
                f"deadline: expected less than the client's timeout, {timeout:g} s, got {deadline:g} s{whose}; ask "
                "with an earlier deadline, or give the client a larger timeout"
            )


def read_mode(mode: Mode | str) -> Mode:
    """A mode by its name.

    Raises:
        ServingError: there is no mode of that name.
    """
    try:
        return Mode(mode)
    except ValueError:
        names = " or ".join(known.value for known in Mode)
        raise ServingError(f"mode: expected {names}, got {mode!r}") from None


def read_tier_spec(answer: Mapping[str, Any], kind: TierModel) -> TierSpec:
    """What the configuration of a tier says: gRPC wraps that once more, and writes numbers as strings.

    Raises:
        ServingError: it is not the configuration of such a tier.
    """
    with configuration_read():
        return _tier_spec(answer.get("config", answer), kind)


def _tier_spec(config: Mapping[str, Any], kind: TierModel) -> TierSpec:
    expected = [tensor.name for tensor in tier_tensors(kind)]
    found = [output["name"] for output in config["output"]]
    if not set(expected) <= set(found):
        raise ServingError(
            f"model {config['name']!r}: expected the outputs {', '.join(expected)} of a tier {kind.value}; found "
            f"{harmless(', '.join(found))}"
        )
    parameters = {name: value.get("string_value", "") for name, value in config.get("parameters", {}).items()}
    try:
        limits = parse_limits(parameters)
    except HeatserveError as error:
        raise ServingError(f"model {config['name']!r}: {error}") from None
    return TierSpec(
        config["name"], kind, batch_limit(config), harmless(parameters.get("promise") or "") or None, limits
    )


def _finite(name: str, value: Any) -> float | None:
    try:
        number = None if value is None else math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise ServingError(f"{name}: expected a finite number, got {value!r}")
    return number


def _whole(name: str, value: Any) -> int | None:
    try:
        number = None if value is None or isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None and value is not None:
        raise ServingError(f"{name}: expected a whole number, got {value!r}")
    if number is not None and abs(number) > _LARGEST_WHOLE:
        raise ServingError(f"{name}: expected a whole number of 64 bits, got {number:.3g}")
    return number


def _milliseconds(seconds: float | None) -> int | None:
    if seconds is not None and seconds <= 0:
        raise ServingError(f"deadline: expected seconds above 0, got {seconds:g}")
    return None if seconds is None else math.ceil(seconds * 1000)
