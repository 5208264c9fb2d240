"""What `bench soak` measures: a server under load for long, what it grows by, and how soon it answers after faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heatserve.benchmarks.records.load import Heard, LoadTarget
from heatserve.benchmarks.records.record import Record


@dataclass(frozen=True, kw_only=True)
class SoakSample:
    """What the processes of a server held at one moment, by kind of process."""

    minute: float
    """Since the load began."""
    rss_mib: Mapping[str, float]
    """Resident memory, with what is shared."""
    files: Mapping[str, int]
    """Open descriptors."""
    processes: Mapping[str, int]
    shared_mib: float
    """Regions of shared memory of the server, as files of /dev/shm."""
    temporary_mib: float
    """Files of the server in its temporary folder, its log among them."""


@dataclass(frozen=True, kw_only=True)
class FaultRow:
    """One kind of fault, done several times to a server that is asked all the time."""

    what: str
    """What was done."""
    seconds: tuple[float, ...]
    """From each fault until the first good answer after the last bad one, over every protocol; 0: all were good."""
    failed: int
    """Requests without a good answer, of callers that do not ask again."""


@dataclass(frozen=True, kw_only=True)
class SoakRecord(Record):
    """A `heatserve serve` under load for long, and broken afterwards."""

    model: str
    architecture: str
    data: str
    """What the images of the requests are."""
    minutes: float
    share: float
    """Of what the same mix of requests reached in a closed loop."""
    heard: tuple[Heard, ...]
    """By kind of request, over all of the time."""
    cores: Mapping[str, float]
    """That the processes of each kind took on average."""
    idle: tuple[SoakSample, SoakSample]
    """Before the load and after it, without callers."""
    samples: tuple[SoakSample, ...]
    """Under load."""
    growth: Mapping[str, float]
    """Of the resident memory of each kind of process, and of `all`: how much larger its median is in the last quarter
    of the time than in the second one, as a share."""
    replaced: int
    """Processes that were started again during the load."""
    faults: tuple[FaultRow, ...]
    targets: tuple[LoadTarget, ...]
