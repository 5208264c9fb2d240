"""What `heatserve bench training` times: the heat step in each variant, Algorithm 1 as it is printed among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from heatserve.training import build_network
from heatserve.training.methods import (
    CrossEntropy,
    HeatLoss,
    HeatParameters,
    Method,
    ParameterError,
    Terms,
    heat_preset,
)
from heatserve.training.methods.heat import add_noise

SIGMA = 0.25


@dataclass(frozen=True)
class Shape:
    """A classifier of one architecture, and batches of images of one shape."""

    architecture: str
    input_shape: tuple[int, int, int]
    num_classes: int
    batch_size: int


SHAPES = {
    "cifar10-resnet20": Shape("cifar_resnet20", (3, 32, 32), 10, 64),
    "imagenet-resnet50": Shape("resnet50", (3, 224, 224), 1000, 4),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How it is measured.

    Args:
        kappa: κ, draws in one step.
        repeats: counted runs of each variant and of each part of the floor; medians are reported.
        variance_draws: estimates of ‖∇v‖² by each estimator, whose spread is reported.
        seed: of the weights, the images and all draws.
        device: "cpu", "cuda", ….
    """

    kappa: int = 10
    repeats: int = 5
    variance_draws: int = 20
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ParameterError(
                f"device: expected cpu or a device of this machine, got {self.device!r}: {reason}"
            ) from None

    @property
    def parameters(self) -> HeatParameters:
        """Equation (10) by Algorithm 1, as the paper ran it on ImageNet-1k: noise on half of the images."""
        return replace(heat_preset("paper-imagenet", SIGMA), kappa=self.kappa)

    def generator(self) -> torch.Generator:
        """Of the draws of one step: the same ones every time."""
        return torch.Generator(self.device).manual_seed(self.seed)

    @property
    def on_gpu(self) -> bool:
        """Whether the device runs behind the program's back, and counts its own memory."""
        return torch.device(self.device).type == "cuda"

    def described(self) -> dict[str, Any]:
        """What a result says about how it was measured."""
        return {
            "weights": "random",
            "images": "random",
            "precision": "float32",
            "threads": torch.get_num_threads(),
            "device": self.device,
            "device_name": torch.cuda.get_device_name(self.device) if self.on_gpu else None,
            "sigma": self.parameters.sigma,
            "delta": self.parameters.delta,
            "kappa": self.kappa,
            "repeats": self.repeats,
            "variance_draws": self.variance_draws,
        }


@dataclass(frozen=True)
class NaiveHeatLoss:
    """Algorithm 1 line by line, for (10): every graph is kept, and one backward pass goes through all of them.

    Both orders are in the authors' code, https://github.com/ryancampbell514/HeatSmoothing.

    Args:
        base: f, frozen and in eval mode.
        parameters: σ, κ, δ and the share of noisy images; of the rest only the paper's own formula is here.
        fresh: compute v(x) anew for each draw, as the paper's authors do on CIFAR-10; otherwise once, as on ImageNet.
    """

    base: nn.Module
    parameters: HeatParameters
    fresh: bool = True

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:  # noqa: ARG002
        p = self.parameters
        x = add_noise(images, sigma=p.sigma, share=p.noisy_share, generator=generator).requires_grad_()
        v = network(x)
        with torch.no_grad():
            f = self.base(images)
        j = 0.5 * (v.softmax(1) - f.softmax(1)).square().sum(1)
        draws = torch.randn((p.kappa, *v.shape), generator=generator, device=x.device) / v.shape[1] ** 0.5
        for w in draws:
            if self.fresh:
                v = network(x)
            (gradient,) = torch.autograd.grad((w * v).sum(), x, retain_graph=True)
            length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            g = torch.where(length > 0, gradient / length, 0.0)
            difference = (w * network(x.detach() + p.delta * g)).sum(1) - (w * v).sum(1)
            j = j + p.sigma**2 / (2 * p.delta**2) * difference.square()
        loss = j.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}


@dataclass(frozen=True)
class Variant:
    """One way to take a step: the memory layout of network and images, and the method, given f and its parameters."""

    layout: torch.memory_format
    method: Callable[[nn.Module, HeatParameters], Method]


VARIANTS = {
    "naive": Variant(torch.contiguous_format, NaiveHeatLoss),
    "naive, one v(x)": Variant(torch.contiguous_format, lambda f, p: NaiveHeatLoss(f, p, fresh=False)),
    "heat": Variant(torch.channels_last, HeatLoss),
    "heat, all draws at once": Variant(
        torch.channels_last, lambda f, p: HeatLoss(f, replace(p, draws_at_once=p.kappa))
    ),
    "heat, displacements": Variant(
        torch.channels_last, lambda f, p: HeatLoss(f, replace(p, estimator="displacements"))
    ),
    "cross-entropy": Variant(torch.channels_last, lambda _f, _p: CrossEntropy()),
}

Work = Callable[[], object]
"""What is timed."""


@dataclass(frozen=True)
class Workload:
    """What a step is taken on: from the same seed the same in every process, whatever the memory layout."""

    network: nn.Module
    base: nn.Module
    images: Tensor
    labels: Tensor

    def step(self, name: str, settings: Settings) -> Work:
        """A step of that variant, its gradients cleared first."""
        self.network.zero_grad()
        method = VARIANTS[name].method(self.base, settings.parameters)
        generator = settings.generator()
        return lambda: method(self.network, self.images, self.labels, generator)


def build(shape: Shape, settings: Settings, layout: torch.memory_format) -> Workload:
    """Random networks v and f and a random batch, in one memory layout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network, base = (
            build_network(
                shape.architecture,
                num_classes=shape.num_classes,
                input_shape=shape.input_shape,
                mean=(0.5,) * shape.input_shape[0],
                std=(0.25,) * shape.input_shape[0],
            )
            for _ in range(2)
        )
        images = torch.rand(shape.batch_size, *shape.input_shape)
        labels = torch.randint(shape.num_classes, (shape.batch_size,))
    for module in (network, base):
        module.to(settings.device, memory_format=layout)  # type: ignore[call-overload]
    images = images.to(settings.device, memory_format=layout)
    return Workload(network.train(), base.eval(), images, labels.to(settings.device))
