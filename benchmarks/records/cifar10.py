"""What `experiment cifar10` measures: one row for each system, σ and n of Certify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from heatserve.benchmarks.records.record import Record
from heatserve.certification.radius import RadiusMap
from heatserve.export.card_parts import Calibration, Evaluation, MonteCarlo, OverclaimRate, Split

ARCHITECTURE = "cifar_resnet20"
"""The network of rows that name none, and of an experiment that is asked for none."""


@dataclass(frozen=True, kw_only=True)
class ShiftCalibration:
    """A calibration by a constant shift, as rows have it that were measured before the maps in steps: one is kept."""

    promise: str
    method: str
    alpha: float
    confidence: float
    shift: float
    """t in σ·(Φ⁻¹(p₍₁₎) − t)."""
    cap: float
    """Largest radius."""
    fit: Split
    check: Split
    monte_carlo: MonteCarlo
    overclaim: OverclaimRate


@dataclass(frozen=True, kw_only=True)
class FormerCalibration:
    """A calibration from before cards counted looks: its confidence is that of this calibration by itself.

    All of δ was spent on its test, whatever else had been tested on the same images.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    promise: str
    method: str
    alpha: float
    confidence: float
    target: float | None
    """The radius that the map was made for; None: all of them."""
    radius_map: RadiusMap
    fit: Split
    check: Split
    monte_carlo: MonteCarlo
    overclaim: OverclaimRate
    """On the images of `check`, which chose the map: the bound is not one of this map by itself."""


RowCalibration = Calibration | FormerCalibration | ShiftCalibration
"""What a row may say of its calibration, newest first."""


@dataclass(frozen=True, kw_only=True)
class Cifar10Row:
    """One system at one σ, measured with one n of Certify."""

    system: str
    sigma: float
    images: int
    """Test images that everything but the clean accuracy is measured on."""
    n: int
    """Of Certify on them."""
    checkpoint: str
    """SHA-256."""
    labels: bool
    """Whether the training after the baseline used any."""
    method: str
    start: str | None
    """The system that it was trained from; None: the baseline itself."""
    hyperparameters: Mapping[str, str | int | float | bool | None]
    epochs: int
    """After the baseline; of the baseline its own."""
    training_seconds: float | None
    """The seconds that those epochs took; None where no log was kept, as for the baseline."""
    clean_accuracy: float
    """The accuracy of one pass on all 10,000 test images."""
    evaluation: Evaluation
    calibration: RowCalibration | None
    """None: no radius could be promised, and the single pass serves radius 0."""
    provenance: Record
    architecture: str = ARCHITECTURE


@dataclass(frozen=True, kw_only=True)
class Cifar10Record:
    """All rows; each says for itself how it was made."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rows: tuple[Cifar10Row, ...] = ()
