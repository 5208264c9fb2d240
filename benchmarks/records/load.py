"""What `bench load` measures: a served model under callers and arrivals, beside its floors, with what it aims at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from heatserve.benchmarks.records.record import Record
from heatserve.export.card import InputType

Protocol = Literal["grpc", "http"]


@dataclass(frozen=True, kw_only=True)
class TailMilliseconds:
    """Quantiles of the latency of one request, in milliseconds."""

    p50: float
    p90: float
    p99: float
    p999: float


@dataclass(frozen=True, kw_only=True)
class RequestKind:
    """What is asked, and how."""

    tier: str
    """`one pass`, `confirm`, `cascade`, or `identity`: a model beside it that computes nothing."""
    protocol: Protocol
    input: InputType
    images: int
    """In each request."""


@dataclass(frozen=True, kw_only=True)
class Heard(RequestKind):
    """What the callers of one kind of request heard."""

    callers: int | None
    """Requests on the way at any time (closed loop); None where they arrive at a rate."""
    rate: float | None
    """Requests a second that arrive as a Poisson process (open loop); None where callers wait for their answers."""
    answers: int
    """Requests that began in the window and were answered without an error."""
    images_per_second: float
    """Of answers that came within the window."""
    milliseconds: TailMilliseconds | None
    """From the moment at which a request was to start, sent or not; None where nothing was answered."""
    late_p99: float
    """Milliseconds by which the generator sent a request later than it was to start: its own part of the latency."""
    errors: Mapping[str, int]
    """Requests that were refused or given up after the window's begin, by kind: a status of gRPC or HTTP, `overloaded`
    where the server says so, `no answer`."""


@dataclass(frozen=True, kw_only=True)
class ProcessUse:
    """What the server's processes of one kind took."""

    cores: float
    """CPU seconds in a second."""
    rss_mib: float
    """Resident memory, with what is shared, at the end of the window."""
    shared_mib: float
    """The part of it that other processes have mapped too."""


@dataclass(frozen=True, kw_only=True)
class LoadRow:
    """One load: kinds of requests at the same time."""

    seconds: float
    """The length of the window, without warm-up; that of all its rounds together."""
    heard: tuple[Heard, ...]
    generator_cores: float
    """Cores of the busiest process of the generator: near 1, it was the bottleneck and not the server."""
    server: Mapping[str, ProcessUse]
    """By kind of process: `triton`, `stub MODEL`, `voter MODEL`."""

    @property
    def cpu_milliseconds(self) -> float | None:
        """The server's CPU time for one answered image; None where nothing was answered."""
        images = sum(one.images_per_second for one in self.heard)
        return 1000 * sum(use.cores for use in self.server.values()) / images if images else None


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """ONNX Runtime on the served graph, in a process of its own on all cores, one run after the other."""

    batch: int
    milliseconds: TailMilliseconds
    """Of one run."""
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class ThirdPartyRow:
    """What another load generator says of the same HTTP request and as many callers, and ours beside it."""

    name: str
    version: str
    command: str
    callers: int
    requests_per_second: float
    ours: Heard


@dataclass(frozen=True, kw_only=True)
class LoadTarget:
    """Something to reach, computed from the rows."""

    name: str
    found: float
    limit: float
    at_most: bool
    """Whether `found` is to be at most the limit, and not at least."""
    met: bool


@dataclass(frozen=True, kw_only=True)
class ModelLoad:
    """One model under load, and its floors in the same run."""

    weights: Literal["random", "served"]
    architecture: str
    input: InputType
    input_shape: tuple[int, int, int]
    """C, H, W."""
    data: str
    """What the images of the requests are."""
    radius: float | None
    """What confirm and cascade are asked for; None where the model has no tiers."""
    raw: tuple[RawRow, ...]
    raw_single: RawRow
    """Batch 1, interleaved with the rows of one caller."""
    closed: tuple[LoadRow, ...]
    opened: tuple[LoadRow, ...]
    mixes: Mapping[str, LoadRow]
    """By name, such as `one pass beside confirm`."""
    third_party: tuple[ThirdPartyRow, ...]
    targets: tuple[LoadTarget, ...]


@dataclass(frozen=True, kw_only=True)
class LoadRecord(Record):
    """Models under load on one machine."""

    seconds: float
    """The length of each window."""
    generators: int
    """Processes that ask."""
    shapes: Mapping[str, ModelLoad]
    """By model."""
