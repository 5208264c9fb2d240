"""The results that are kept in the repository, in benchmarks/results/*.json."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

from heatserve.benchmarks.records.attack import AttackRecord
from heatserve.benchmarks.records.calibration import CalibrationRecord
from heatserve.benchmarks.records.cifar10 import Cifar10Record
from heatserve.benchmarks.records.confirming import ConfirmRecord
from heatserve.benchmarks.records.heat_step import HeatStepRecord
from heatserve.benchmarks.records.record import read_record
from heatserve.benchmarks.records.serving import ConformanceRecord, TuneRecord
from heatserve.benchmarks.records.speed import EngineRecord, LatencyRecord
from heatserve.benchmarks.records.votes import VoteRecord
from heatserve.export.calibration.compare import Comparison


@dataclass(frozen=True, kw_only=True)
class KeptResults:
    """Every kept file: the field `attack_digits` is what attack-digits.json holds."""

    attack_cifar10: AttackRecord
    attack_digits: AttackRecord
    calibration: CalibrationRecord
    certify: VoteRecord
    cifar10: Cifar10Record
    confirm: ConfirmRecord
    conformance: ConformanceRecord
    export: EngineRecord
    latency: LatencyRecord
    training: HeatStepRecord
    training_resnet50: HeatStepRecord
    tune: TuneRecord
    variant_fp16: Comparison
    variant_int8: Comparison
    variant_uint8: Comparison


def kept_file(field: str) -> str:
    """The name of the file that a field of `KeptResults` is read from."""
    return f"{field.replace('_', '-')}.json"


def read_kept(folder: Path) -> KeptResults:
    """Read all kept results.

    Raises:
        RecordError: a file is missing, or holds something else than its benchmark writes.
    """
    kinds = get_type_hints(KeptResults)
    names = [field.name for field in fields(KeptResults)]
    return KeptResults(**{name: read_record(folder / kept_file(name), kinds[name]) for name in names})
