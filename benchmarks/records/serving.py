"""What `heatserve tune` and `heatserve conformance` write, as it is read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from heatserve.benchmarks.records.record import Record
from heatserve.serving.conformance.findings import Findings
from heatserve.serving.tuning.tune import TuningResult


@dataclass(frozen=True, kw_only=True)
class TuneRecord(Record, TuningResult):
    """What settings of Triton answered on one machine."""

    seconds: float
    """The least length of each measurement."""


@dataclass(frozen=True, kw_only=True)
class ConformanceRecord(Record):
    """How often each engine kept what the certificate says."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")
    """The file also has each engine's totals, which `Findings` computes."""

    examples: int
    """How many of each kind of logits and image."""
    engines: Mapping[str, Findings]
    absent: Mapping[str, str]
    """Why an engine could not be asked, by its name."""
