"""What `bench switch` measures: versions of a model switched to while callers ask, and versions that are kept out."""

from __future__ import annotations

from dataclasses import dataclass

from heatserve.benchmarks.records.load import Heard, LoadTarget
from heatserve.benchmarks.records.record import Record


@dataclass(frozen=True, kw_only=True)
class SwitchRow:
    """One command, done while callers asked."""

    command: str
    """`switch` or `rollback`."""
    version: int
    """That was served afterwards."""
    seconds: float
    """Of the command: start of Python, trial, load, and the first answers of the new version."""


@dataclass(frozen=True, kw_only=True)
class KeptOut:
    """A version with a fault, which was not switched to."""

    fault: str
    said: str
    """What the command said, without paths."""
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class SwitchingRecord(Record):
    """A `heatserve serve` that is switched while it is under load."""

    model: str
    architecture: str
    data: str
    """What the images of the requests are."""
    share: float
    """Of what the same mix of requests reached in a closed loop."""
    switches: tuple[SwitchRow, ...]
    calm: tuple[Heard, ...]
    """By kind of request, while nothing was switched."""
    switching: tuple[Heard, ...]
    """By kind of request, while one switch came after the other."""
    kept_out: tuple[KeptOut, ...]
    targets: tuple[LoadTarget, ...]
