"""The results that are kept in the repository, in benchmarks/results/*.json."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args, get_type_hints

from heatserve.benchmarks.records.attack import AttackRecord
from heatserve.benchmarks.records.attack_tiers import TierAttackRecord
from heatserve.benchmarks.records.calibration import CalibrationRecord
from heatserve.benchmarks.records.confirming import ConfirmRecord
from heatserve.benchmarks.records.front import FrontRecord
from heatserve.benchmarks.records.fuzz import FuzzRecord
from heatserve.benchmarks.records.gpu import GpuCertifyRecord, GpuStepsRecord, GpuTrainingRecord
from heatserve.benchmarks.records.heat_step import HeatStepRecord
from heatserve.benchmarks.records.kinds import KindsRecord
from heatserve.benchmarks.records.line import LineRecord
from heatserve.benchmarks.records.lipschitz import LipschitzTrainingRecord
from heatserve.benchmarks.records.load import LoadRecord
from heatserve.benchmarks.records.networks import NetworksRecord
from heatserve.benchmarks.records.paper import SYSTEMS_FILE, PaperResults, read_paper
from heatserve.benchmarks.records.record import read_record
from heatserve.benchmarks.records.serving import ConformanceRecord, TuneRecord
from heatserve.benchmarks.records.shadow import ShadowRecord
from heatserve.benchmarks.records.soak import SoakRecord
from heatserve.benchmarks.records.speed import EngineRecord, LatencyRecord
from heatserve.benchmarks.records.switching import SwitchingRecord
from heatserve.benchmarks.records.table2 import SpeedRecord
from heatserve.benchmarks.records.tiers import TiersRecord
from heatserve.benchmarks.records.votes import VoteRecord
from heatserve.export.calibration.compare import Comparison


@dataclass(frozen=True, kw_only=True)
class KeptResults:
    """Every kept file: the field `attack_digits` is what attack-digits.json holds, `digits_speed` digits/speed.json.

    A field that may be None is of a benchmark whose results are not kept yet; it has no page until they are.
    """

    attack_cifar10: AttackRecord
    attack_digits: AttackRecord
    calibration: CalibrationRecord
    certify: VoteRecord
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
    attack_tiers_cifar10: TierAttackRecord | None = None
    attack_tiers_digits: TierAttackRecord | None = None
    front: FrontRecord | None = None
    fuzz: FuzzRecord | None = None
    kinds: KindsRecord | None = None
    lipschitz: LipschitzTrainingRecord | None = None
    load: LoadRecord | None = None
    networks: NetworksRecord | None = None
    switch: SwitchingRecord | None = None
    shadow: ShadowRecord | None = None
    soak: SoakRecord | None = None
    tiers: TiersRecord | None = None
    line: LineRecord | None = None
    digits_speed: SpeedRecord | None = None
    cifar10_speed: SpeedRecord | None = None
    imagenet_speed: SpeedRecord | None = None
    gpu_speed: SpeedRecord | None = None
    gpu_certify: GpuCertifyRecord | None = None
    gpu_heat_step: GpuStepsRecord | None = None
    gpu_train: GpuTrainingRecord | None = None
    paper: tuple[PaperResults, ...] = ()
    """Of each data set that `heatserve paper` measured, from the two files in its folder."""


_NOT_FILES = ("paper",)

_MAY_BE_ABSENT = {
    name: get_args(kind)[0] for name, kind in get_type_hints(KeptResults).items() if type(None) in get_args(kind)
}
"""The kinds of the fields that may be None."""


_FOLDERS = ("digits", "cifar10", "imagenet", "gpu")
"""Folders in that of the results: what was measured on one data set, and by `benchmarks/gpu`."""


def kept_file(field: str) -> str:
    """The file that a field of `KeptResults` is read from, seen from the folder of results."""
    folder, _, rest = field.partition("_")
    inside = f"{folder}/{rest}" if folder in _FOLDERS and rest else field
    return f"{inside.replace('_', '-')}.json"


def read_kept(folder: Path) -> KeptResults:
    """Read all kept results.

    Raises:
        RecordError: a file is missing that has to be there, or holds something else than its benchmark writes.
    """
    kinds = get_type_hints(KeptResults)
    names = [field.name for field in fields(KeptResults) if field.name not in _NOT_FILES]
    paths = {name: folder / kept_file(name) for name in names}
    paper = tuple(read_paper(path.parent) for path in sorted(folder.glob(f"*/{SYSTEMS_FILE}")))
    needed = {name: path for name, path in paths.items() if name not in _MAY_BE_ABSENT or path.exists()}
    return KeptResults(
        **{name: read_record(path, _MAY_BE_ABSENT.get(name, kinds[name])) for name, path in needed.items()},
        paper=paper,
    )
