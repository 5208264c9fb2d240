"""What a run of the suite found about one engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from heatserve.export.contract import Outputs
from heatserve.serving.conformance.probe import Probe
from heatserve.serving.conformance.promises import Deviation, PromiseCheck, rows_of


@dataclass
class Tally:
    """How often a promise was checked and broken."""

    cases: int = 0
    failures: int = 0
    first: dict[str, Any] | None = None
    """What was answered where it was first broken, and by which probe."""


@dataclass
class Findings:
    """What is known about one engine."""

    promises: dict[str, Tally] = field(default_factory=dict)
    ended_by: str | None = None
    """What kept the engine from answering all probes as the contract demands."""
    skipped: str | None = None
    """Why some probes were not asked of the engine, which is not meant for them."""
    probability_off: float = 0.0
    """Largest difference of a probability from float64."""
    nominal_below: float = 0.0
    """Largest difference, in σ, of a nominal radius from its float64 value."""
    positive: int = 0
    """Answers whose certified radius is positive in float64."""
    lower: int = 0
    """How many of these have a lower radius: their score is within float32 of a threshold, as in many hard cases."""

    @property
    def cases(self) -> int:
        """Promises checked, image by image."""
        return sum(tally.cases for tally in self.promises.values())

    @property
    def failures(self) -> int:
        """Promises broken, image by image."""
        return sum(tally.failures for tally in self.promises.values())

    @property
    def passed(self) -> bool:
        """Whether every promise was kept, on all probes."""
        return self.failures == 0 and self.ended_by is None

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"passed": self.passed, "cases": self.cases, "failures": self.failures, **asdict(self)}

    def add(self, check: PromiseCheck, one: Probe) -> None:
        """Count whether a promise was kept by answers to the probe `one`."""
        tally = self.promises.setdefault(check.promise, Tally())
        broken = np.flatnonzero(~check.kept)
        tally.cases += len(check.kept)
        tally.failures += len(broken)
        if len(broken) and tally.first is None:
            tally.first = _described(one, rows_of(check.outputs, broken[:1]))

    def widen(self, found: Deviation) -> None:
        """Keep the larger of two deviations, and count radii that are positive and lower."""
        self.probability_off = max(self.probability_off, found.probability)
        self.nominal_below = max(self.nominal_below, found.nominal)
        self.positive += found.positive
        self.lower += found.lower


def _described(one: Probe, outputs: Outputs) -> dict[str, Any]:
    """The answer to one image."""
    answered = {name: value[0].tolist() for name, value in outputs.items() if name != "probabilities"}
    largest = -np.sort(-outputs["probabilities"][0])[:3]
    return {"classes": one.classes, "sigma": one.sigma, **answered, "largest_probabilities": largest.tolist()}
