"""The systems that the CIFAR-10 experiment compares: how each is trained from one baseline, in as many epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from heatserve.benchmarks.paper.training import BASELINE_SYSTEM, System
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.methods.parameters import (
    AverageParameters,
    HeatParameters,
    MadryParameters,
    NoiseParameters,
    SmoothAdvParameters,
    heat_preset,
)

FINE_TUNING = Optimisation(epochs=2, batch_size=64, lr=0.05)
_SLOW = replace(FINE_TUNING, lr=0.01)
"""The heat loss destroys the network at the learning rate of the others."""

SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        system.name: system
        for system in (
            System(BASELINE_SYSTEM, True, None, Optimisation(epochs=15, batch_size=64, lr=0.05)),
            System("noise", True, lambda sigma: NoiseParameters(sigma=sigma), FINE_TUNING, evaluated="stochastic"),
            System(
                "noise-label-free",
                False,
                lambda sigma: NoiseParameters(sigma=sigma, label_free=True),
                FINE_TUNING,
                evaluated="stochastic",
            ),
            System(
                "smoothadv",
                True,
                lambda sigma: SmoothAdvParameters(sigma=sigma, epsilon=0.5, steps=2),
                FINE_TUNING,
                evaluated="stochastic",
            ),
            System("madry", True, lambda _: MadryParameters(epsilon=0.5, steps=2), FINE_TUNING),
            System(
                "madry-heat",
                False,
                lambda sigma: HeatParameters(sigma=sigma, kappa=2),
                replace(_SLOW, epochs=1),
                start="madry",
            ),
            System("heat", False, lambda sigma: HeatParameters(sigma=sigma, kappa=2), _SLOW),
            System(
                "heat-paper",
                False,
                lambda sigma: replace(heat_preset("paper-cifar10", sigma), time_steps=2),
                replace(_SLOW, epochs=1),
            ),
            System("average", False, lambda sigma: AverageParameters(sigma=sigma), FINE_TUNING),
            System(
                "average-probabilities",
                False,
                lambda sigma: AverageParameters(sigma=sigma, target="probabilities", consistency=5.0),
                FINE_TUNING,
            ),
        )
    }
)
"""All but the baseline and `madry-heat`, which is Table 4's, see as many epochs."""
