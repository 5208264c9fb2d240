"""The results that are kept in the repository, read from their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from heatserve.benchmarks.records.attack import AttackRecord
from heatserve.benchmarks.records.calibration import CalibrationRecord
from heatserve.benchmarks.records.cifar10 import Cifar10Record
from heatserve.benchmarks.records.heat_step import HeatStepRecord
from heatserve.benchmarks.records.record import read_record
from heatserve.benchmarks.records.serving import ConformanceRecord, TuneRecord
from heatserve.benchmarks.records.speed import EngineRecord, LatencyRecord
from heatserve.benchmarks.records.votes import VoteRecord
from heatserve.export.calibration.compare import Comparison

FILES: Mapping[str, type] = MappingProxyType(
    {
        "attack-cifar10": AttackRecord,
        "attack-digits": AttackRecord,
        "calibration": CalibrationRecord,
        "certify": VoteRecord,
        "cifar10": Cifar10Record,
        "conformance": ConformanceRecord,
        "export": EngineRecord,
        "latency": LatencyRecord,
        "training": HeatStepRecord,
        "training-resnet50": HeatStepRecord,
        "tune": TuneRecord,
        "variant-fp16": Comparison,
        "variant-int8": Comparison,
        "variant-uint8": Comparison,
    }
)
"""The kind of record in each file of benchmarks/results/, by its name without .json."""

R = TypeVar("R")


@dataclass(frozen=True)
class KeptResults:
    """The results in a folder.

    Args:
        folder: of the JSON files; in the repository benchmarks/results/.
    """

    folder: Path

    def read(self, name: str, kind: type[R]) -> R:
        """The record in the file `name`.json.

        Raises:
            RecordError: the file is missing or holds something else.
        """
        return read_record(self.folder / f"{name}.json", kind)
