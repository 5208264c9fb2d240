"""What `bench certify` measures: noisy passes a second, and votes that decide a radius."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record
from heatserve.export.card_parts import Split


@dataclass(frozen=True, kw_only=True)
class VoteSpeed:
    """Noisy passes a second of each way to take votes."""

    architecture: str
    weights: str
    rounds: int
    passes: int
    """n₀ + n: votes of one image."""
    torch_threads: int
    passes_per_second: Mapping[str, Mapping[int, float]]
    """Votes a second, by way and batch size."""
    ratios: Mapping[str, float]
    """By "way / other way", each at its fastest batch size."""


@dataclass(frozen=True, kw_only=True)
class DecisionSummary:
    """What a sequential test of one radius answered, and what it took."""

    yes: int
    no: int
    undecided: int
    mean_samples: float
    """Votes an image, n₀ included."""
    median_samples: float
    times_fewer: float
    """(n₀ + n) ÷ `mean_samples`."""
    passes_per_second: float


@dataclass(frozen=True, kw_only=True)
class CertifySummary:
    """What Certify proved on the same images."""

    abstained: int
    mean_radius: float
    """L2, pixels in [0,1]; 0 where it abstained."""
    mean_radius_grey_levels: float
    certified_accuracy: float
    """The certified accuracy at the radius that was decided."""
    passes_per_second: float


@dataclass(frozen=True, kw_only=True)
class SamplingVotes:
    """Both algorithms with noise from one source."""

    decide: DecisionSummary
    certify: CertifySummary


@dataclass(frozen=True, kw_only=True)
class DecidedRadius:
    """Votes that decide one radius where Certify takes n₀ + n."""

    model: str
    base_sha256: str
    data: Split
    sigma: float
    radius: float
    alpha: float
    n0: int
    n: int
    """Most votes of a decision."""
    certify_n: int
    """n of the Certify that `SamplingVotes` has."""
    samplings: Mapping[str, SamplingVotes]


@dataclass(frozen=True, kw_only=True)
class VoteRecord(Record):
    """What a vote costs, and how few decide."""

    speed: VoteSpeed
    deciding: DecidedRadius | None = None
    """None where no images were given."""
