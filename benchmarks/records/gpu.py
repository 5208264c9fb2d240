"""What `python -m heatserve.benchmarks.gpu` measures and trains, beside Table 2, which is a `SpeedRecord`.

Importing it needs no pydantic: a bare GPU machine writes these files, and reads them to go on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record


@dataclass(frozen=True, kw_only=True)
class SamplesCell:
    """Noisy passes of one classifier by one way at one batch size."""

    classifier: str
    """Its name in `CLASSIFIERS`."""
    way: str
    batch_size: int
    samples_per_second: float | None
    """The median over the runs; None: it could not be run."""
    refused: str | None
    """Why not."""


@dataclass(frozen=True, kw_only=True)
class GpuCertifyRecord(Record):
    """Samples a second of Certify."""

    weights: str = "random"
    device: str
    device_name: str | None
    passes: int
    """n₀ + n of one image."""
    runs: int
    cells: tuple[SamplesCell, ...]


@dataclass(frozen=True, kw_only=True)
class StepCell:
    """One training step of one classifier."""

    classifier: str
    step: str
    """Its name in `STEP_VARIANTS`."""
    precision: str
    compiled: bool
    """By `torch.compile`."""
    batch_size: int
    milliseconds: float | None
    """The median over the runs; None: it could not be run."""
    images_per_second: float | None
    peak_mib: float | None
    """Peak memory of all tensors; None: not on a GPU, or not run."""
    refused: str | None
    """Why it could not be run."""


@dataclass(frozen=True, kw_only=True)
class GpuStepsRecord(Record):
    """What a heat step costs beside a plain cross-entropy step; a forward and a backward, without an optimiser."""

    weights: str = "random"
    images: str = "random"
    device: str
    device_name: str | None
    sigma: float
    kappa: int
    runs: int
    cells: tuple[StepCell, ...]


@dataclass(frozen=True, kw_only=True)
class GpuTraining:
    """One training, finished or not."""

    system: str
    architecture: str
    file: str
    """The checkpoint's name in the folder."""
    epochs: int
    """Of all its time steps."""
    epochs_done: int
    seconds: float | None
    """Of those epochs; None: not all of them were taken on this machine."""
    images_per_second: float | None
    """Of the last epoch; None: none is done, or as above."""
    sha256: str | None
    """Of the checkpoint; None: not finished."""
    accuracy: float | None
    """Of one pass on all test images; None: not finished."""


@dataclass(frozen=True, kw_only=True)
class GpuTrainingRecord(Record):
    """Trainings on one machine."""

    device: str
    device_name: str | None
    data: str
    rows: tuple[GpuTraining, ...]
