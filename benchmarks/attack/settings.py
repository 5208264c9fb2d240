"""How hard to attack."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from heatserve.certification.errors import HeatserveError


@dataclass(frozen=True)
class Search:
    """How long to search for inputs whose radius is wrong, and towards how many classes."""

    steps: int = 20
    samples: int = 16
    """m: noise samples in each estimate of what can be proven, drawn afresh at every step."""
    targets: int = 2
    """Classes that v is driven to, one search each: its t most probable ones at x."""


@dataclass(frozen=True)
class AttackSettings:
    """How hard to attack a model."""

    top_k: int = 1
    """Success: the class is not among the k best."""
    epsilon: float = 4.0
    """Largest L2 distance of PGD and DDN, pixels in [0,1]."""
    steps: int = 20
    """Of PGD and DDN."""
    noise_samples: int = 100
    """n of equation (9): draws that a gradient of the smoothed classifier is averaged over."""
    votes: int = 1000
    """Noisy answers that decide whether the smoothed class changed."""
    spoof_epsilons: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    """L2 distances within which inputs with a wrong radius are searched for."""
    search: Search = field(default_factory=Search)
    defence_epsilon: float = 0.5
    """L2 distance at which defences are compared."""
    defence_samples: tuple[int, ...] = (4, 16)
    """Noisy passes of the defences that make any."""
    confidence: float = 0.95
    """The confidence of each upper bound."""
    seed: int = 0

    def check(self, *, classes: int) -> None:
        """Raise HeatserveError where a distance is not above 0, or `top_k` or `targets` not below the classes."""
        for name, value in (
            ("limit", self.epsilon),
            ("defence-epsilon", self.defence_epsilon),
            *(("epsilon", epsilon) for epsilon in self.spoof_epsilons),
        ):
            if not 0 < value < math.inf:
                raise HeatserveError(f"{name}: expected an L2 distance above 0, got {value:g}")
        for name, count in (("top-k", self.top_k), ("targets", self.search.targets)):
            if not 1 <= count < classes:
                raise HeatserveError(f"{name}: expected 1 to {classes - 1} for {classes} classes, got {count}")
