"""How each data set is evaluated: its systems, how they are trained, and the paper's numbers for its attacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from heatserve.benchmarks.paper.training import System
from heatserve.training import Optimisation, baseline_optimisation, fine_tuning, lipschitz_recipe
from heatserve.training.methods.parameters import (
    AverageParameters,
    HeatParameters,
    MadryParameters,
    NoiseParameters,
    SmoothAdvParameters,
    heat_preset,
)
from heatserve.training.named import parse_named

PAPER_SYSTEMS = (
    "baseline",
    "noise",
    "smoothadv",
    "heat",
    "heat-paper",
    "average",
    "madry",
    "madry-heat",
    "lipschitz",
)
"""The rows, in the order of the tables; where no 1-Lipschitz network takes the size of the images, without the last."""


def place_of(system: str) -> int:
    """Where a system stands in tables; one that no recipe has any more stands last."""
    return PAPER_SYSTEMS.index(system) if system in PAPER_SYSTEMS else len(PAPER_SYSTEMS)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one data set is evaluated, where its user does not say otherwise."""

    architecture: str
    """Of all systems but `lipschitz`."""
    systems: Mapping[str, System]
    sigmas: tuple[float, ...]
    images: int | None = None
    """Test images of single passes; None: all."""
    attacked: int | None = None
    """The first of them, that deterministic models are attacked at; None: all of them."""
    top_k: int = 1
    """k of attacks and of Figure 1."""
    noise_samples: int = 100
    """n of equation (9)."""
    autoattack_epsilon: float = 0.5
    """ε within which AutoAttack looks (L2, pixels in [0,1])."""


def recipe_of(dataset: str, device: str) -> Recipe:
    """The recipe of a data set, by its name; `imagefolder:PATH` has that of ImageNet, but for its size."""
    kind = parse_named(dataset).name
    if kind == "digits":
        return _digits(device)
    if kind == "cifar10":
        return _cifar10(device)
    return _pictures(is_imagenet=kind == "imagenet")


def _digits(device: str) -> Recipe:
    """Trained in seconds; ε and the five time steps are those of appendix E."""
    usual = fine_tuning("noise", "digits")
    heat = fine_tuning("heat", "digits")
    systems = (
        System("baseline", True, None, baseline_optimisation("digits")),
        System("noise", True, lambda sigma: NoiseParameters(sigma=sigma), usual, evaluated="stochastic"),
        System(
            "smoothadv",
            True,
            lambda sigma: SmoothAdvParameters(sigma=sigma, epsilon=0.5, steps=4),
            usual,
            evaluated="stochastic",
        ),
        System("heat", False, lambda sigma: HeatParameters(sigma=sigma), heat),
        System("heat-paper", False, lambda sigma: heat_preset("paper-cifar10", sigma), heat),
        System(
            "average",
            False,
            lambda sigma: AverageParameters(sigma=sigma, samples=4, consistency=2.0),
            fine_tuning("average", "digits"),
        ),
        System("madry", True, lambda _: MadryParameters(epsilon=0.5, steps=4), usual),
        System("madry-heat", False, lambda sigma: HeatParameters(sigma=sigma), heat, start="madry"),
        _lipschitz("digits", device),
    )
    return Recipe(architecture="digits_cnn", systems=_by_name(systems), sigmas=(0.25,))


def _cifar10(device: str) -> Recipe:
    """Two epochs after those of one baseline, with the paper's steps of attacks and of time."""
    usual = Optimisation(epochs=2, batch_size=64, lr=0.05)
    heat = replace(usual, lr=0.01)  # its loss destroys the network at the learning rate of the others
    systems = (
        System("baseline", True, None, replace(usual, epochs=15)),
        System("noise", True, lambda sigma: NoiseParameters(sigma=sigma), usual, evaluated="stochastic"),
        System(
            "smoothadv",
            True,
            lambda sigma: SmoothAdvParameters(sigma=sigma, epsilon=0.5, steps=4),
            usual,
            evaluated="stochastic",
        ),
        System("heat", False, lambda sigma: HeatParameters(sigma=sigma, kappa=2), heat),
        System("heat-paper", False, lambda sigma: heat_preset("paper-cifar10", sigma), replace(heat, epochs=1)),
        System("average", False, lambda sigma: AverageParameters(sigma=sigma), usual),
        System("madry", True, lambda _: MadryParameters(epsilon=0.5, steps=4), usual),
        System(
            "madry-heat",
            False,
            lambda sigma: HeatParameters(sigma=sigma, kappa=2),
            replace(heat, epochs=1),
            start="madry",
        ),
        _lipschitz("cifar10", device),
    )
    return Recipe(architecture="cifar_resnet20", systems=_by_name(systems), sigmas=(0.1, 0.25))


def _pictures(*, is_imagenet: bool) -> Recipe:
    """The numbers of section 4: epochs, ε of SmoothAdv and of Table 4, k, n of (9), and how many images."""
    baseline = Optimisation(epochs=29, batch_size=128, lr=0.1)
    usual = fine_tuning("noise", "imagenet")
    heat = fine_tuning("heat", "imagenet")
    systems = (
        System("baseline", True, None, baseline),
        System("noise", True, lambda sigma: NoiseParameters(sigma=sigma), usual, evaluated="stochastic"),
        System(
            "smoothadv",
            True,
            lambda sigma: SmoothAdvParameters(sigma=sigma, epsilon=0.5, steps=1),
            usual,
            evaluated="stochastic",
        ),
        System("heat", False, lambda sigma: heat_preset("paper-imagenet", sigma), heat),
        System("heat-paper", False, lambda sigma: heat_preset("paper-cifar10", sigma), heat),
        System("average", False, lambda sigma: AverageParameters(sigma=sigma), usual),
        System("madry", True, lambda _: MadryParameters(epsilon=3.0, steps=7), usual),
        System("madry-heat", False, lambda sigma: heat_preset("paper-imagenet", sigma), heat, start="madry"),
    )
    return Recipe(
        architecture="resnet50",
        systems=_by_name(systems),
        sigmas=(0.25,),
        images=5000,
        attacked=1000,
        top_k=5 if is_imagenet else 1,
        noise_samples=25,
    )


def _lipschitz(dataset: str, device: str) -> System:
    architecture, optimisation = lipschitz_recipe(dataset, device)
    return System("lipschitz", True, None, optimisation, lipschitz=architecture)


def _by_name(systems: tuple[System, ...]) -> Mapping[str, System]:
    order = sorted(systems, key=lambda system: PAPER_SYSTEMS.index(system.name))
    return MappingProxyType({system.name: system for system in order})
