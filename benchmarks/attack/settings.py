"""How hard to attack."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from heatserve.certification.confirming import MOST_SIGMAS, votes_needed
from heatserve.certification.errors import HeatserveError
from heatserve.export.tiers import TierLimits


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


@dataclass(frozen=True)
class TierAttackSettings:
    """How hard to attack the tiers of a model, and what is asked."""

    epsilons: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    """L2 distances within which inputs are searched for."""
    radii: tuple[float, ...] = (0.125, 0.25)
    """r of the questions; ε itself is asked too where n votes can prove it."""
    search: Search = field(default_factory=lambda: Search(samples=8, targets=1))
    alpha: float = TierLimits.alpha
    """Of each question."""
    n: int = TierLimits.n
    """Most votes of confirm, and votes of certify."""
    n0: int = TierLimits.n0
    """Of certify."""
    asks: int = 500
    """Questions to the inputs at which a false yes is likeliest, for each radius."""
    often_alpha: float = TierLimits.most_alpha
    """Of those questions."""
    truth_votes: int = 10_000
    """Most votes that judge whether an answer is an overclaim."""
    truth_alpha: float = 1e-6
    """Probability that they judge wrongly."""
    confidence: float = 0.95
    """The confidence of each upper bound."""
    seed: int = 0

    def check(self, *, classes: int, sigma: float) -> None:
        """Raise HeatserveError where a distance is not above 0, or a radius cannot be proven by n votes."""
        for epsilon in self.epsilons:
            if not 0 < epsilon < math.inf:
                raise HeatserveError(f"epsilon: expected an L2 distance above 0, got {epsilon:g}")
        for radius in self.radii:
            if not 0 < radius <= MOST_SIGMAS * sigma or votes_needed(radius, sigma=sigma, alpha=self.alpha) > self.n:
                raise HeatserveError(
                    f"radius: expected an L2 radius above 0 that {self.n} unanimous votes prove at alpha "
                    f"{self.alpha:g} with sigma {sigma:g}, got {radius:g}"
                )
        if not 1 <= self.search.targets < classes:
            raise HeatserveError(
                f"targets: expected 1 to {classes - 1} for {classes} classes, got {self.search.targets}"
            )

    def asked_within(self, epsilon: float, *, sigma: float) -> tuple[float, ...]:
        """The radii that are asked at what is found within ε: `radii`, and ε where n votes can prove it."""
        provable = epsilon <= MOST_SIGMAS * sigma and votes_needed(epsilon, sigma=sigma, alpha=self.alpha) <= self.n
        return tuple(sorted({*self.radii, *((epsilon,) if provable else ())}))
