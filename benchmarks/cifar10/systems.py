"""The systems that the CIFAR-10 experiment compares: how each is trained from one baseline, in as many epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.methods.parameters import (
    AverageParameters,
    HeatParameters,
    MadryParameters,
    NoiseParameters,
    Parameters,
    SmoothAdvParameters,
    heat_preset,
)

BASELINE = Optimisation(epochs=15, batch_size=64, lr=0.05)
FINE_TUNING = Optimisation(epochs=2, batch_size=64, lr=0.05)


@dataclass(frozen=True)
class System:
    """One row of the table: how a network is trained from the baseline."""

    name: str
    labels: bool
    parameters: Callable[[float], Parameters] | None
    """From σ; None is the baseline itself."""
    start: str = "baseline"
    """The system whose network it starts from."""
    optimisation: Optimisation = FINE_TUNING


_SLOW = replace(FINE_TUNING, lr=0.01)
"""The heat loss destroys the network at the learning rate of the others."""

SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        system.name: system
        for system in (
            System("baseline", True, None),
            System("noise", True, lambda sigma: NoiseParameters(sigma=sigma)),
            System("noise-label-free", False, lambda sigma: NoiseParameters(sigma=sigma, label_free=True)),
            System("smoothadv", True, lambda sigma: SmoothAdvParameters(sigma=sigma, epsilon=0.5, steps=2)),
            System("madry", True, lambda _: MadryParameters(epsilon=0.5, steps=2)),
            System(
                "madry-heat",
                False,
                lambda sigma: HeatParameters(sigma=sigma, kappa=2),
                start="madry",
                optimisation=replace(_SLOW, epochs=1),
            ),
            System("heat", False, lambda sigma: HeatParameters(sigma=sigma, kappa=2), optimisation=_SLOW),
            System(
                "heat-paper",
                False,
                lambda sigma: replace(heat_preset("paper-cifar10", sigma), time_steps=2),
                optimisation=replace(_SLOW, epochs=1),
            ),
            System("average", False, lambda sigma: AverageParameters(sigma=sigma)),
            System(
                "average-probabilities",
                False,
                lambda sigma: AverageParameters(sigma=sigma, target="probabilities", consistency=5.0),
            ),
            System(
                "average-longer",
                False,
                lambda sigma: AverageParameters(sigma=sigma, frozen_base=True),
                start="average",
                optimisation=replace(FINE_TUNING, epochs=4),
            ),
            System(
                "average-longest",
                False,
                lambda sigma: AverageParameters(sigma=sigma, frozen_base=True),
                start="average-longer",
                optimisation=replace(FINE_TUNING, epochs=8),
            ),
        )
    }
)
"""All but the baseline, `madry-heat`, which is Table 4's, `average-longer` and `average-longest` see as many epochs."""
