"""What `bench front` measures: what a request costs through the front, beside gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record
from heatserve.benchmarks.records.speed import Milliseconds


@dataclass(frozen=True, kw_only=True)
class Above:
    """Quartiles over the rounds: the median of one way, less that of another in the same round, in milliseconds."""

    p25: float
    p50: float
    p75: float


@dataclass(frozen=True, kw_only=True)
class FrontLatency:
    """One classifier, asked for one image in each way by one caller."""

    requests: Mapping[str, int]
    """Counted ones, by way."""
    milliseconds: Mapping[str, Milliseconds]
    above: Mapping[str, Above]
    """By "way − other way"."""
    cpu_microseconds: float
    """CPU time of the front for one binary request."""
    megabytes: float
    """Resident memory of the front after all of them."""


@dataclass(frozen=True, kw_only=True)
class FrontRecord(Record):
    """What the front adds to a request, by classifier."""

    weights: str = "random"
    batch: int = 1
    most_above: float
    """The target: milliseconds at p50 that a binary request may take above gRPC."""
    shapes: Mapping[str, FrontLatency]
