"""What `bench training` measures: time and memory of a heat step, and whether its variants compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AliasChoices, Field

from heatserve.benchmarks.records.record import Record


@dataclass(frozen=True, kw_only=True)
class StepMilliseconds:
    """What the counted runs took."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """One variant of a step."""

    milliseconds: StepMilliseconds
    images_per_second: float
    speed_up: float
    """Over Algorithm 1 as it is printed."""
    ratio_to_floor: float
    peak_mib: float | None
    """The peak on top of weights and images; None where the system does not tell."""


@dataclass(frozen=True, kw_only=True)
class FloorPart:
    """A part of the floor, timed by itself."""

    count: int
    """How often a step needs it."""
    milliseconds: StepMilliseconds


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What Algorithm 1 needs draw by draw."""

    milliseconds: float
    """The sum of count × median over the parts."""
    parts: Mapping[str, FloorPart]


@dataclass(frozen=True, kw_only=True)
class GradientDifferences:
    """‖g − g′‖/‖g‖ of whole gradients, from the same weights, images and draws."""

    heat_and_naive: Annotated[float, Field(validation_alias=AliasChoices("heat_and_naive", "heat and naive"))]
    """What the order of the work changes in one memory layout. Older files have the key "heat and naive"."""
    naive_in_both_layouts: Annotated[
        float, Field(validation_alias=AliasChoices("naive_in_both_layouts", "naive in both layouts"))
    ]
    """What rounding changes, where a ReLU's argument is so close to 0 that it decides the sign. Older files have the
    key "naive in both layouts"."""


@dataclass(frozen=True, kw_only=True)
class SlopeEstimate:
    """Estimates of ‖∇v‖², each from κ draws."""

    estimator: str
    delta: float
    """δ, the length of a finite difference."""
    mean: float
    """Over batch and estimates."""
    spread_of_a_batch: float
    """Standard deviation ÷ mean of the mean over the batch, which one step sees."""
    spread_of_an_image: float
    """The same of one image's estimates, averaged over the batch: it does not depend on the batch's size."""


@dataclass(frozen=True, kw_only=True)
class ClassifierSteps:
    """All variants of a step on one classifier."""

    architecture: str
    input_shape: tuple[int, int, int]
    num_classes: int
    batch_size: int
    variants: Mapping[str, StepCost]
    floor: Floor
    gradient_differences: GradientDifferences
    estimators: tuple[SlopeEstimate, ...]


@dataclass(frozen=True, kw_only=True)
class HeatStepRecord(Record):
    """What a heat step costs, by classifier."""

    weights: str = "random"
    images: str = "random"
    precision: str = "float32"
    threads: int
    device: str
    device_name: str | None
    sigma: float
    delta: float
    kappa: int
    repeats: int
    variance_draws: int
    shapes: Mapping[str, ClassifierSteps]
