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

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from heatserve.training.methods.choices import HEAT_OUTPUTS, NORMALISATIONS
from heatserve.training.methods.parameters import HeatParameters, ParameterError
from heatserve.training.methods.protocol import Terms


@dataclass(frozen=True)
class HeatLoss:
    """Algorithm 1 for one batch: `base` is f, frozen and in eval mode. Labels are never looked at."""

    base: nn.Module
    parameters: HeatParameters

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:  # noqa: ARG002
        """The mean over the batch of J_i; images [N, C, H, W] in [0,1].

        One forward at x serves the distance, the input gradients and every difference. The displaced batches go
        forward and backward one after another, and each adds to the gradient at v(x), which goes back through the
        network once, in the end: the gradient of the whole loss, in the memory of one displaced batch.
        """
        p = self.parameters
        compared = HEAT_OUTPUTS[p.distance]
        with torch.no_grad():
            target = compared(self.base(images))
        x = add_noise(images, sigma=p.sigma, share=p.noisy_share, generator=generator)
        x.requires_grad_(p.estimator == "projections")
        before = _drawn(x.device)
        logits = network(x)
        if p.draws_at_once > 1 and not torch.equal(before, _drawn(x.device)):
            raise ParameterError(
                f"draws_at_once: expected 1 for a network that draws at random in training (dropout), since all "
                f"draws need the same masks; got {p.draws_at_once}"
            )
        at_x = logits.detach().requires_grad_()
        distance = 0.5 * (compared(at_x) - target).square().sum(1).mean()
        distance.backward()  # type: ignore[no-untyped-call]
        penalty = torch.zeros_like(distance)
        with frozen_statistics(network):
            for squares in squared_slopes(_drawing_as(before, network), x, logits, at_x, p, generator):
                part = p.gradient_weight / p.time_steps * squares.sum(0).mean()
                part.backward()  # type: ignore[no-untyped-call]
                penalty += part.detach()
        logits.backward(at_x.grad)
        return {"loss": distance.detach() + penalty, "distance": distance.detach(), "penalty": penalty}


def add_noise(images: Tensor, *, sigma: float, share: float, generator: torch.Generator) -> Tensor:
    """x + η, η ~ N(0, σ²I), for a random `share` of images [N, …] (rounded to whole images); the rest unchanged."""
    count = round(share * len(images))
    chosen = torch.randperm(len(images), generator=generator, device=images.device)[:count]
    noisy = images.clone()
    shape = (count, *images.shape[1:])
    noisy[chosen] += sigma * torch.randn(shape, generator=generator, device=images.device)
    return noisy


def _drawn(device: torch.device) -> Tensor:
    """The state of torch's own random numbers on a device, from which dropout draws."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _drawing_as(state: Tensor, network: nn.Module) -> Callable[[Tensor], Tensor]:
    """`network`, with every call drawing from `state`: other masks at x + δu than at x would count as a slope."""

    def run(images: Tensor) -> Tensor:
        cuda = images.device.type == "cuda"
        with torch.random.fork_rng(devices=[images.device] if cuda else []):
            torch.cuda.set_rng_state(state, images.device) if cuda else torch.set_rng_state(state)
            logits: Tensor = network(images)
        return logits

    return run


def squared_slopes(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    logits: Tensor,
    at_x: Tensor,
    p: HeatParameters,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """The terms of (16), whose sum over all κ draws estimates ‖∇ₓB(v(x))‖²_F of each image.

    Args:
        network: v, from [N, …] to logits [N, K].
        x: where to differentiate [N, …]; requires a gradient.
        logits: v(x), computed from x, with its graph.
        at_x: v(x) to subtract, cut off from x: the terms are differentiable in it and in the weights of `network`.
        p: κ, δ, the estimator, its normalisation, B, and how many draws are taken at once.
        generator: makes the draws.

    Yields:
        [draws at once, N], until there have been κ draws.
    """
    penalised = HEAT_OUTPUTS[p.penalty]
    outputs = penalised(logits)
    factor = _factor(p, pixels=x[0].numel(), classes=outputs.shape[1])
    w = torch.randn((p.kappa, *outputs.shape), generator=generator, device=x.device) / outputs.shape[1] ** 0.5  # (17)
    for some in w.split(p.draws_at_once):
        if p.estimator == "projections":
            directions = torch.stack([_direction(outputs, x, projection) for projection in some])
        else:
            shape = (len(some), *x.shape)
            directions = torch.randn(shape, generator=generator, device=x.device) / x[0].numel() ** 0.5
        displaced = network((x.detach() + p.delta * directions).flatten(0, 1))
        difference = penalised(displaced).view(some.shape) - penalised(at_x)
        if p.estimator == "projections":
            difference = (some * difference).sum(2, keepdim=True)
        yield factor * (difference / p.delta).square().sum(2)


def _factor(p: HeatParameters, *, pixels: int, classes: int) -> float:
    """Factor on the sum over κ draws, which gives it the mean that the normalisation promises."""
    return pixels / p.kappa if p.estimator == "displacements" else NORMALISATIONS[p.normalisation](p.kappa, classes)


def _direction(outputs: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """ĝ of (18): ∇ₓ(w·v(x)) of each image at length 1, or 0 where it vanishes; detached."""
    (gradient,) = torch.autograd.grad(outputs, x, grad_outputs=w, retain_graph=True)
    norm = gradient.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))
    return torch.where(norm > 0, gradient / norm, torch.zeros_like(gradient))


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """While this is open, BatchNorm normalises as before, but does not update its running statistics.

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
