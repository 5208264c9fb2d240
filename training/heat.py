"""The heat loss: Algorithm 1 and equations (3), (10) and (15) of the paper, and the gradient penalty of its appendix B.

With v the network that is trained, f the one that it started from, and c the `coefficient`,

    ½‖A(v(x)) − A(f(x))‖² + c‖∇ₓB(v(x))‖²,    A, B: the identity or the softmax.

| as printed  | distance (A)  | noisy_share | coefficient c                           | normalisation     |
|-------------|---------------|-------------|-----------------------------------------|-------------------|
| (3)         | probabilities | 0           | σ²/2                                    | unbiased          |
| (10)        | probabilities | 0.5         | σ²/2                                    | unbiased          |
| (15)        | logits        | 0           | hσ²/2, h the share of a time step       | unbiased          |
| Algorithm 1 | logits        | 0           | σ²/2                                    | paper: the sum of |
|             |               |             |                                         | κ draws, as (16)  |

All of them penalise the gradient of the logits (B the identity).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from certification.errors import HeatserveError
from training.method import Loss

OUTPUTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"logits": lambda logits: logits, "probabilities": lambda logits: logits.softmax(1)}
)
"""What is compared, and what is differentiated: functions of the logits [N, K]."""

NORMALISATIONS: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {"paper": lambda _kappa, _classes: 1.0, "unbiased": lambda kappa, classes: classes / kappa}
)
"""Factor on the sum over κ draws in (16), from κ and K."""


class HeatError(HeatserveError):
    """A parameter of the heat loss is out of its range."""


@dataclass(frozen=True, kw_only=True)
class HeatParameters:
    """Parameters of the heat loss, named as in the paper.

    Args:
        sigma: σ, standard deviation of the Gaussian that v is to average f over; pixels in [0,1].
        kappa: κ, number of random projections w of the Jacobian, (16).
        delta: δ, step of the finite difference in (16); L2, pixels in [0,1].
        distance: A, what v and f are compared by: "probabilities" as in (3) and (10), "logits" as in (15).
        penalty: B, whose gradient is penalised: "logits" as printed, or "probabilities".
        noisy_share: share of each batch that gets noise N(0, σ²I) before v sees it; f always sees clean images, (10).
        normalisation: of the sum over κ draws. One draw with w ~ N(0, I)/√K has mean ‖∇v‖²/K. "paper" sums the draws
            as (16) is printed, which estimates κ/K of the squared norm; "unbiased" multiplies by K/κ.
        coefficient: c, the number in front of ‖∇v‖². None is σ²/200: what σ²/2, as printed, amounts to in the paper's
            run on ImageNet-1k, where "paper" shrinks the penalty by κ/K = 10/1000. On 10 classes σ²/2 itself drowns
            the distance: one epoch of it takes a digit classifier from 99 % to 50 % accuracy, the default keeps it.
            The minimiser of ½‖v − f‖² + c‖∇v‖² solves v − f = 2cΔv, so that one time step of the heat equation (6)
            is c = σ²/4; (14) differs from the printed (15) by that factor of 2.
    """

    sigma: float
    kappa: int = 10
    delta: float = 0.1
    distance: str = "probabilities"
    penalty: str = "logits"
    noisy_share: float = 0.5
    normalisation: str = "unbiased"
    coefficient: float | None = None

    def __post_init__(self) -> None:
        _require("sigma", self.sigma, 0 < self.sigma < math.inf, "a number above 0")
        _require("kappa", self.kappa, self.kappa >= 1, "a whole number from 1")
        _require("delta", self.delta, 0 < self.delta < math.inf, "a number above 0")
        _require("noisy_share", self.noisy_share, 0 <= self.noisy_share <= 1, "a number from 0 to 1")
        _require("coefficient", self.coefficient, 0 <= self.gradient_weight < math.inf, "a number from 0")
        _require("distance", self.distance, self.distance in OUTPUTS, " or ".join(OUTPUTS))
        _require("penalty", self.penalty, self.penalty in OUTPUTS, " or ".join(OUTPUTS))
        _require("normalisation", self.normalisation, self.normalisation in NORMALISATIONS, " or ".join(NORMALISATIONS))

    @property
    def gradient_weight(self) -> float:
        """c: the coefficient, or σ²/200 where none was given."""
        return self.sigma**2 / 200 if self.coefficient is None else self.coefficient


def _require(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise HeatError(f"{name}: expected {expected}, got {value!r}")


@dataclass(frozen=True)
class HeatLoss:
    """Algorithm 1 for one batch: `base` is f, frozen and in eval mode. Labels are never looked at."""

    base: nn.Module
    parameters: HeatParameters

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:  # noqa: ARG002
        """The mean over the batch of J_i; images [N, C, H, W] in [0,1]."""
        p = self.parameters
        compared, penalised = OUTPUTS[p.distance], OUTPUTS[p.penalty]
        with torch.no_grad():
            target = compared(self.base(images))
        x = add_noise(images, sigma=p.sigma, share=p.noisy_share, generator=generator).requires_grad_()
        logits = network(x)
        distance = 0.5 * (compared(logits) - target).square().sum(1).mean()
        with frozen_statistics(network):
            squared_norm = gradient_penalty(
                lambda displaced: penalised(network(displaced)),
                x,
                kappa=p.kappa,
                delta=p.delta,
                normalisation=p.normalisation,
                generator=generator,
                outputs=penalised(logits),
            )
        penalty = p.gradient_weight * squared_norm.mean()
        return Loss(distance + penalty, {"distance": distance.detach(), "penalty": penalty.detach()})


def add_noise(images: Tensor, *, sigma: float, share: float, generator: torch.Generator) -> Tensor:
    """x + η, η ~ N(0, σ²I), for a random `share` of images [N, …] (rounded to whole images); the rest unchanged."""
    count = round(share * len(images))
    chosen = torch.randperm(len(images), generator=generator, device=images.device)[:count]
    noisy = images.clone()
    shape = (count, *images.shape[1:])
    noisy[chosen] += sigma * torch.randn(shape, generator=generator, device=images.device)
    return noisy


def gradient_penalty(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    kappa: int,
    delta: float,
    normalisation: str,
    generator: torch.Generator,
    outputs: Tensor | None = None,
) -> Tensor:
    """Estimate ‖∇ₓv(x)‖²_F of each image by (16)–(18): κ finite differences along detached input gradients.

    Args:
        network: v, from [N, …] to [N, K].
        x: where to differentiate [N, …].
        kappa: κ, number of draws.
        delta: δ, L2 length of the finite difference.
        normalisation: "paper" sums the draws, mean κ/K·‖∇v‖²; "unbiased" scales the sum by K/κ.
        generator: of the draws w.
        outputs: network(x) if it is at hand, computed from an x that requires a gradient.

    Returns:
        [N], differentiable in the weights of `network` but not in x.
    """
    if outputs is None:
        x = x.detach().requires_grad_()
        outputs = network(x)
    classes = outputs.shape[1]
    w = torch.randn((kappa, *outputs.shape), generator=generator, device=x.device) / classes**0.5  # (17)
    directions = torch.stack([_direction(outputs, x, projection) for projection in w])
    displaced = network((x.detach() + delta * directions).flatten(0, 1)).view(w.shape)
    slopes: Tensor = (w * (displaced - outputs)).sum(2) / delta  # [κ, N], squared and summed over κ in (16)
    return NORMALISATIONS[normalisation](kappa, classes) * slopes.square().sum(0)


def _direction(outputs: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """ĝ of (18): ∇ₓ(w·v(x)) of each image at length 1, or 0 where it vanishes; detached."""
    (gradient,) = torch.autograd.grad(outputs, x, grad_outputs=w, retain_graph=True)
    norm = gradient.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))
    return torch.where(norm > 0, gradient / norm, torch.zeros_like(gradient))


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """BatchNorm keeps normalising as it does, but leaves its running statistics alone.

    One step runs the network κ + 1 times; only the first, at x, may count for what the network uses in eval mode.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    training = [layer for layer in layers if layer.training]
    for layer in training:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in training:
            layer.track_running_stats = True
