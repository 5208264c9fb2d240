"""What `bench tiers` measures: what each tier of a served model proves, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heatserve.benchmarks.records.load import Heard
from heatserve.benchmarks.records.record import Record
from heatserve.export.card_parts import Split


@dataclass(frozen=True, kw_only=True)
class PassCount:
    """Forward passes for one image: those of the single pass, if it makes one, and the votes."""

    median: float
    mean: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class RadiusRow:
    """One radius, asked of every test image."""

    radius: float
    """L2, pixels in [0,1]."""
    claimed: float
    """Share of the images for which the tier says that the radius is at least this one: a positive answer."""
    certified_accuracy: float
    """Share for which it says so of the right class."""
    passes: PassCount
    claimed_passes: float | None
    """Mean number of passes of those that are claimed; None: none is."""


@dataclass(frozen=True, kw_only=True)
class TierRow:
    """One tier of one model."""

    alpha: float | None
    """The probability with which a claim may be wrong, for each image; None: the promise of the card, a rate."""
    at: tuple[RadiusRow, ...]
    """By radius. Confirm and the cascade are asked once for each."""
    single: Heard
    """One caller, over gRPC, asked for the first radius."""
    saturated: Heard
    """As many callers as were answered the most images a second, of those tried."""


@dataclass(frozen=True, kw_only=True)
class TieredModel:
    """All tiers of one model, on the same images."""

    graph_sha256: str
    sigma: float
    data: Split
    tiers: Mapping[str, TierRow]
    """`one pass`, `cascade` (confirm what is claimed), `confirm`, `certify`."""


@dataclass(frozen=True, kw_only=True)
class TiersRecord(Record):
    """The tiers of several models on one machine."""

    seconds: float
    """The length of each window in which latency or throughput is measured."""
    shapes: Mapping[str, TieredModel]
    """By model."""
