"""The parameters of every method, named as in the papers, and what else tells one method from another.

Free of torch when it is imported, so that the command line can read the parameters: what they build is imported late.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from heatserve.certification.errors import HeatserveError
from heatserve.certification.sigma import sigma_problem
from heatserve.training.methods.choices import DISTANCES, ESTIMATORS, HEAT_OUTPUTS, NORMALISATIONS, TARGETS

if TYPE_CHECKING:
    from torch import nn

    from heatserve.training.checkpoint import Checkpoint, Hyperparameter
    from heatserve.training.methods.protocol import Method
    from heatserve.training.methods.students import Student


class ParameterError(HeatserveError):
    """A parameter is out of its range: its name, what was expected and what came."""


def require(name: str, value: object, holds: bool, expected: str) -> None:
    """Raise a ParameterError unless `holds`."""
    if not holds:
        raise ParameterError(f"{name}: expected {expected}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Parameters(ABC):
    """The parameters of one method, and all that the rest of `heatserve.training` has to know of it."""

    method: ClassVar[str]
    """Its name in `METHODS`, on the command line and in checkpoints."""

    @abstractmethod
    def loss(self, start: nn.Module) -> Method:
        """The loss, given the network that training starts from, frozen and in eval mode."""

    def student(self, parent: Checkpoint, seed: int) -> Student:  # noqa: ARG002
        """What is trained: a copy of the network of `parent`, unless the method says otherwise."""
        from heatserve.training.methods.students import copy_of

        return copy_of(parent)

    @property
    def smoothed_for(self) -> float | None:
        """σ of the Gaussian noise that the network is smoothed for, pixels in [0,1]; None where there is none."""
        return None

    @property
    def trainings(self) -> int:
        """How many trainings there are one after another, each starting from the network of the one before."""
        return 1

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """What a checkpoint records, by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SmoothingParameters(Parameters):
    """Parameters of a method whose network is smoothed by N(0, σ²I).

    Args:
        sigma: σ, pixels in [0,1].
    """

    sigma: float

    def __post_init__(self) -> None:
        if problem := sigma_problem(self.sigma):
            raise ParameterError(f"sigma: {problem}")

    @property
    def smoothed_for(self) -> float:
        return self.sigma


@dataclass(frozen=True, kw_only=True)
class HeatParameters(SmoothingParameters):
    """Parameters of the heat loss, named as in the paper.

    Args:
        sigma: σ, standard deviation of the Gaussian that v is to average f over; pixels in [0,1].
        kappa: κ, number of random projections w of the Jacobian, (16).
        delta: δ, step of the finite difference in (16); L2, pixels in [0,1].
        distance: A, what v and f are compared by: "probabilities" as in (3) and (10), "logits" as in (15).
        penalty: B, whose gradient is penalised: "logits" as printed, or "probabilities".
        noisy_share: share of each batch that gets noise N(0, σ²I) before v sees it; f always sees clean images, (10).
        normalisation: how the sum over κ draws is normalised. One draw with w ~ N(0, I)/√K has mean ‖∇v‖²/K. "paper"
            sums the draws as (16) is printed, which estimates κ/K of the squared norm; "unbiased" multiplies by K/κ.
        coefficient: c, the number in front of ‖∇v‖². None is σ²/200: what σ²/2, as printed, amounts to in the paper's
            run on ImageNet-1k, where "paper" shrinks the penalty by κ/K = 10/1000. On 10 classes σ²/2 itself drowns
            the distance: one epoch of it takes a digit classifier from 99 % to 50 % accuracy, the default keeps it.
            The minimiser of ½‖v − f‖² + c‖∇v‖² solves v − f = 2cΔv, so that one time step of the heat equation (6)
            is c = σ²/4; (14) differs from the printed (15) by that factor of 2.
        estimator: how ‖∇v‖² is estimated. "projections": κ finite differences of w·v along its own gradient, (16).
            "displacements": ‖v(x + δu) − v(x)‖²/δ² for κ random directions u, times the number of pixels: the same
            mean without any input gradient, where δ is small enough for v to be linear; always unbiased.
        time_steps: n_T of (15): so many trainings one after another, each with the network of the one before as f,
            and with the n_T-th part of c.
        reinitialise: start each time step from fresh weights, as the paper does on CIFAR-10, not from f.
        draws_at_once: how many of the κ displaced batches go through the network together. More need more memory, and
            BatchNorm then normalises by the statistics of all of them; 1 is Algorithm 1, and fastest on a CPU.
    """

    method: ClassVar[str] = "heat"

    kappa: int = 10
    delta: float = 0.1
    estimator: str = "projections"
    distance: str = "probabilities"
    penalty: str = "logits"
    noisy_share: float = 0.5
    normalisation: str = "unbiased"
    coefficient: float | None = None
    time_steps: int = 1
    reinitialise: bool = False
    draws_at_once: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require("kappa", self.kappa, self.kappa >= 1, "a whole number from 1")
        require("delta", self.delta, 0 < self.delta < math.inf, "a number above 0")
        require("noisy_share", self.noisy_share, 0 <= self.noisy_share <= 1, "a number from 0 to 1")
        require("coefficient", self.coefficient, 0 <= self.gradient_weight < math.inf, "a number from 0")
        require("distance", self.distance, self.distance in HEAT_OUTPUTS, " or ".join(HEAT_OUTPUTS))
        require("penalty", self.penalty, self.penalty in HEAT_OUTPUTS, " or ".join(HEAT_OUTPUTS))
        require("estimator", self.estimator, self.estimator in ESTIMATORS, " or ".join(ESTIMATORS))
        require("time_steps", self.time_steps, self.time_steps >= 1, "a whole number from 1")
        require("draws_at_once", self.draws_at_once, self.draws_at_once >= 1, "a whole number from 1")
        require("normalisation", self.normalisation, self.normalisation in NORMALISATIONS, " or ".join(NORMALISATIONS))

    @property
    def gradient_weight(self) -> float:
        """c: the coefficient, or σ²/200 where none was given."""
        return self.sigma**2 / 200 if self.coefficient is None else self.coefficient

    @property
    def trainings(self) -> int:
        return self.time_steps

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        return super().hyperparameters | {"coefficient": self.gradient_weight}

    def loss(self, start: nn.Module) -> Method:
        from heatserve.training.methods.heat import HeatLoss

        return HeatLoss(start, self)

    def student(self, parent: Checkpoint, seed: int) -> Student:
        """A copy of the network of `parent`, or a fresh one of its architecture."""
        from heatserve.training.methods.students import fresh_like

        return fresh_like(parent, seed) if self.reinitialise else super().student(parent, seed)


def _require_consistency(consistency: float, samples: int) -> None:
    require("consistency", consistency, 0 <= consistency < math.inf, "a number from 0")
    require("samples", samples, samples >= 2 or not consistency, "2 or more where there is a consistency")


@dataclass(frozen=True, kw_only=True)
class NoiseParameters(SmoothingParameters):
    """Cross entropy at x + η, η ~ N(0, σ²I).

    Args:
        sigma: σ of the noise, pixels in [0,1].
        label_free: the target is the starting network's softmax at the clean image in place of the label.
        samples: m, noisy copies of each image.
        consistency: λ, weight of the divergence of the m answers from their mean; needs two or more.
    """

    method: ClassVar[str] = "noise"

    label_free: bool = False
    samples: int = 1
    consistency: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("samples", self.samples, self.samples >= 1, "a whole number from 1")
        _require_consistency(self.consistency, self.samples)

    def loss(self, start: nn.Module) -> Method:
        from heatserve.training.methods.noise import NoiseLoss

        return NoiseLoss(start, self)


@dataclass(frozen=True, kw_only=True)
class MadryParameters(Parameters):
    """Cross entropy at the image of the L2 ball that PGD finds worst.

    Args:
        epsilon: ε, radius of the ball; L2, pixels in [0,1].
        steps: steps of PGD, each of length 2ε/steps.
    """

    method: ClassVar[str] = "madry"

    epsilon: float = 0.5
    steps: int = 4

    def __post_init__(self) -> None:
        require("epsilon", self.epsilon, 0 < self.epsilon < math.inf, "a number above 0")
        require("steps", self.steps, self.steps >= 1, "a whole number from 1")

    def loss(self, start: nn.Module) -> Method:  # noqa: ARG002
        from heatserve.training.methods.adversarial import AdversarialLoss

        return AdversarialLoss(self.epsilon, self.steps)


@dataclass(frozen=True, kw_only=True)
class SmoothAdvParameters(SmoothingParameters, MadryParameters):
    """Madry's training, but PGD attacks −log of the mean probability over noise, and training sees the same noise.

    Args:
        epsilon: ε, radius of the ball; L2, pixels in [0,1].
        steps: steps of PGD, each of length 2ε/steps.
        sigma: σ of the noise, pixels in [0,1].
        samples: m, noisy copies of each image.
    """

    method: ClassVar[str] = "smoothadv"

    samples: int = 1

    def __post_init__(self) -> None:
        MadryParameters.__post_init__(self)
        SmoothingParameters.__post_init__(self)
        require("samples", self.samples, self.samples >= 1, "a whole number from 1")

    def loss(self, start: nn.Module) -> Method:  # noqa: ARG002
        from heatserve.training.methods.adversarial import AdversarialLoss

        return AdversarialLoss(self.epsilon, self.steps, self.sigma, self.samples)


@dataclass(frozen=True, kw_only=True)
class AverageParameters(SmoothingParameters):
    """Regression of v on the average of f under N(0, σ²I).

    Args:
        sigma: σ of the noise, pixels in [0,1].
        samples: m, noisy copies of each image, whose answers are averaged.
        target: "probabilities" or "votes", see `TARGETS`.
        distance: "cross-entropy" or "squared", see `DISTANCES`.
        consistency: λ of f's training, see `NoiseParameters`.
        frozen_base: the starting network is f already, trained under this noise, and stays as it is. Otherwise f is
            trained beside v, label free: cross entropy from the starting network's softmax at x to f(x + η).
    """

    method: ClassVar[str] = "average"

    samples: int = 2
    target: str = "votes"
    distance: str = "cross-entropy"
    consistency: float = 1.0
    frozen_base: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require("samples", self.samples, self.samples >= 1, "a whole number from 1")
        require("target", self.target, self.target in TARGETS, " or ".join(TARGETS))
        require("distance", self.distance, self.distance in DISTANCES, " or ".join(DISTANCES))
        if not self.frozen_base:
            _require_consistency(self.consistency, self.samples)

    def loss(self, start: nn.Module) -> Method:
        from heatserve.training.methods.average import AverageLoss

        return AverageLoss(start, self)

    def student(self, parent: Checkpoint, seed: int) -> Student:  # noqa: ARG002
        """The pair of f and v: v is a copy of the network of `parent`; so is f, unless it is frozen."""
        from heatserve.training.methods.students import pair_of

        return pair_of(parent, self)


METHODS: Mapping[str, type[Parameters]] = MappingProxyType(
    {
        kind.method: kind
        for kind in (HeatParameters, NoiseParameters, SmoothAdvParameters, MadryParameters, AverageParameters)
    }
)
"""What can be trained from a trained network, by name; "baseline" is where that one comes from."""


def heat_preset(name: str, sigma: float) -> HeatParameters:
    """The paper's own formula for one of its two runs.

    "paper-imagenet" is (10); "paper-cifar10" is (15) by Algorithm 1 in five time steps (appendix E). Both with the sum
    of (16) as printed.

    Raises:
        ParameterError: an unknown name.
    """
    common = HeatParameters(sigma=sigma, kappa=10, delta=0.1, normalisation="paper", coefficient=sigma**2 / 2)
    presets = {
        "paper-cifar10": replace(common, distance="logits", noisy_share=0.0, time_steps=5),
        "paper-imagenet": common,
    }
    require("preset", name, name in presets, " or ".join(presets))
    return presets[name]
