"""What Table 2 of the paper measures: seconds for one classification, in one pass and in n₀ noisy passes and a vote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Quartiles over all counted classifications."""

    p25: float
    p50: float
    p75: float
    count: int
    """Counted classifications."""


@dataclass(frozen=True, kw_only=True)
class MedianRatio:
    """Seconds of one way divided by those of another, in each round; the median of that over the rounds."""

    median: float
    low: float
    high: float
    """A confidence interval of the median, from order statistics: it assumes no distribution."""
    confidence: float
    """Its own, at least 0.95 where there are six rounds or more."""
    rounds: int


@dataclass(frozen=True, kw_only=True)
class SpeedPair:
    """One classifier on one engine."""

    deterministic: Seconds
    """One pass."""
    stochastic: Seconds
    """n₀ noisy passes and a vote."""
    ratio: MedianRatio
    """Stochastic by deterministic."""


@dataclass(frozen=True, kw_only=True)
class ClassifierSpeed:
    """One classifier, asked for one image on each engine, all of them interleaved in one run."""

    architecture: str
    input_shape: tuple[int, int, int]
    """C, H, W."""
    n0: int
    engines: Mapping[str, SpeedPair]
    """By engine. On a CPU `torch` (PyTorch, as the paper measured it), `onnxruntime` and `grpc`, a server; on a GPU the
    ways of `benchmarks/gpu`."""
    votes_in_process_to_grpc: MedianRatio | None
    """n₀ noisy passes in ONNX Runtime, without a server, by one pass over gRPC: votes behind a server cost more. None:
    no server was asked."""


@dataclass(frozen=True, kw_only=True)
class SpeedRecord(Record):
    """Table 2, by classifier."""

    weights: str = "random"
    sigma: float
    """Standard deviation of the noise, pixels in [0,1]; it changes nothing about the time."""
    rounds: int
    """Blocks of classifications that count, each way."""
    threads: int
    """Of PyTorch. ONNX Runtime has its own, one for each core."""
    device: str
    device_name: str | None
    """None: the machine's processor."""
    shapes: Mapping[str, ClassifierSpeed]
