"""What `bench calibration` measures: certified accuracy under each promise, by each way to calibrate."""

from __future__ import annotations

from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record
from heatserve.export.card_parts import Count, MonteCarlo, Split


@dataclass(frozen=True, kw_only=True)
class CalibratedModel:
    """What was calibrated."""

    name: str
    graph_sha256: str
    sigma: float


class FittedSplit(Split):
    """Images of a calibration: `fit` of them fit a map, the rest tests it."""

    fit: Count


@dataclass(frozen=True, kw_only=True)
class PromisedRow:
    """A promise that a way to calibrate could make, and what it keeps on the test images."""

    promise: str
    """"conditional": of overclaims among the positive radii; "marginal": among all answers."""
    alpha: float
    way: str
    single_pass: tuple[float, ...]
    """Certified accuracy at each radius; an overclaim whose class is right counts."""
    backed: tuple[float, ...]
    """The same, and no overclaim counts."""
    overclaims: int
    positive: int
    """Test images with a positive radius."""


@dataclass(frozen=True, kw_only=True)
class RefusedRow:
    """A promise that the calibration images do not support."""

    promise: str
    alpha: float
    way: str
    refused: str
    """Why."""


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord(Record):
    """What a promise costs, compared with Certify on the same images."""

    model: CalibratedModel
    calibration: FittedSplit
    monte_carlo: MonteCarlo
    decisions: FittedSplit
    decision_monte_carlo: MonteCarlo
    test: Split
    test_monte_carlo: MonteCarlo
    delta: float
    radii: tuple[float, ...]
    certify: tuple[float, ...]
    """Certified accuracy of Certify at each radius."""
    agreement: float
    """Share of test images on which the single pass names the smoothed class."""
    rows: tuple[PromisedRow | RefusedRow, ...]

    def promised(self, promise: str, alpha: float, way: str) -> PromisedRow:
        """The row of a promise that could be made."""
        return next(
            row
            for row in self.rows
            if isinstance(row, PromisedRow) and (row.promise, row.alpha, row.way) == (promise, alpha, way)
        )
