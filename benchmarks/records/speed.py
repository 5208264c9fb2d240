"""What `bench latency` and `bench export` measure: milliseconds of a request, and ratios of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AliasChoices, Field

from heatserve.benchmarks.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Milliseconds:
    """Quantiles over all counted requests."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Quartiles over the rounds: the median of one way divided by that of another in the same round."""

    p25: float
    p50: float
    p75: float


@dataclass(frozen=True, kw_only=True)
class ClassifierLatency:
    """One classifier, asked for one image in each way."""

    requests: Mapping[str, int]
    """Counted ones, by way."""
    n0: int
    """Noisy passes of the way `stochastic`."""
    milliseconds: Mapping[str, Milliseconds]
    ratios: Mapping[str, Ratio]
    """By "way / other way"."""


@dataclass(frozen=True, kw_only=True)
class LatencyRecord(Record):
    """What a certificate costs in a request, by classifier."""

    weights: str = "random"
    batch: int = 1
    shapes: Mapping[str, ClassifierLatency]


@dataclass(frozen=True, kw_only=True)
class PlainAndCertified:
    """A classifier without its certificate and with it."""

    plain: Milliseconds
    certified: Milliseconds


@dataclass(frozen=True, kw_only=True)
class EngineRow:
    """One variant on one engine, asked for batches of one size."""

    batch: int
    engine: str
    variant: str
    requests: int
    milliseconds: PlainAndCertified
    certified_to_plain: Annotated[
        Ratio, Field(validation_alias=AliasChoices("certified_to_plain", "certified / plain"))
    ]
    """Older files have the key "certified / plain"."""
    fp32_to_variant: Annotated[Ratio | None, Field(validation_alias=AliasChoices("fp32_to_variant", "fp32 / variant"))]
    """How many times as fast as the FP32 graph the certified one is; None where FP32 was not measured. Older files
    have the key "fp32 / variant"."""


@dataclass(frozen=True, kw_only=True)
class EngineRecord(Record):
    """What a certificate costs on each engine and in each variant, by classifier."""

    weights: str = "random"
    absent: Mapping[str, str]
    """Why an engine was not measured, by its name."""
    shapes: Mapping[str, tuple[EngineRow, ...]]
