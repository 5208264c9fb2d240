"""What `heatserve attack` measures: distances, overclaims that a search finds, and what defences stop."""

from __future__ import annotations

from dataclasses import dataclass

from heatserve.benchmarks.attack.settings import AttackSettings
from heatserve.benchmarks.records.record import Record
from heatserve.export.card_parts import MonteCarlo, Split


@dataclass(frozen=True, kw_only=True)
class DistanceRow:
    """How far one attack goes against one system (L2, pixels in [0,1])."""

    system: str
    attack: str
    changed: float
    """Share of images for which another answer was found."""
    median: float | None
    """Distance to another answer; None where most images have none within the limit."""
    mean: float
    """Where there is no distance, the limit counts as one."""
    median_misclassified: float | None
    """Distance to a wrong answer, 0 where it is wrong to begin with."""
    mean_misclassified: float
    distances: tuple[float | None, ...]
    """To another answer, of each image; None where none was found."""
    right: tuple[bool, ...]
    """Whether the answer to the image as it is is right."""


@dataclass(frozen=True, kw_only=True)
class WithinServed:
    """Single-pass classes that changed within their served radius, which the theorems do not exclude."""

    positive: int
    """Images with a positive radius."""
    changed: int


@dataclass(frozen=True, kw_only=True)
class WithinProven:
    """Smoothed classes within a radius that Certify proves, where the theorem says that none changes."""

    tested: int
    """Attacked images, shortened to just inside the radius."""
    violations: int
    """Another class, by Predict."""
    majority_differs: int
    """Another class has more votes, significantly or not."""
    votes: int


@dataclass(frozen=True, kw_only=True)
class CountedOverclaims:
    """Overclaims at some inputs, as a certificate card counts them."""

    images: int
    positive: int
    overclaims: int
    upper_bound: float
    """Exact, on the rate given a positive radius."""
    upper_bound_of_all: float
    """Exact, on the rate among all answers."""
    median_served: float | None
    """Radius, of the inputs with a positive one."""
    median_proven: float | None

    @property
    def rate(self) -> float:
        """Overclaims per positive radius."""
        return self.overclaims / max(self.positive, 1)


@dataclass(frozen=True, kw_only=True)
class SearchedOverclaims(CountedOverclaims):
    """Overclaims at the worst inputs that a search found within L2 distance `epsilon`; 0: the images as they are."""

    epsilon: float


@dataclass(frozen=True, kw_only=True)
class DefenceRow:
    """What a defence costs on clean images, and what it stops."""

    name: str
    passes: float
    """Further passes for an answer."""
    threshold: float | None
    epsilon: float
    """L2 distance of the search."""
    certified_at: tuple[float, ...]
    certified_accuracy: tuple[float, ...]
    """The certified accuracy on the images as they are, at the radii `certified_at`."""
    unaware: CountedOverclaims
    """Where the search attacked the undefended graph."""
    adaptive: CountedOverclaims
    """Where it knew the defence."""


@dataclass(frozen=True, kw_only=True)
class AttackRecord(Record):
    """What an adversary found who has both graphs of a model."""

    model: str
    graph_sha256: str
    data: Split
    monte_carlo: MonteCarlo
    settings: AttackSettings
    distances: tuple[DistanceRow, ...]
    within_served: WithinServed
    within_proven: WithinProven
    spoofing: tuple[SearchedOverclaims, ...] | None
    """None where the model is not calibrated, and serves no radius."""
    defences: tuple[DefenceRow, ...] | None
    """None where the model is not calibrated."""
