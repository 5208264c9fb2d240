"""What `heatserve bench training` times: the heat step in each variant, Algorithm 1 as it is printed among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from heatserve.benchmarks.classifiers import BENCHMARK_SIGMA, ClassifierShape, random_network
from heatserve.benchmarks.records.record import made_now
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

if TYPE_CHECKING:
    from heatserve.benchmarks.records.heat_step import HeatStepRecord

STEP_IMAGES: Mapping[str, int] = MappingProxyType({"cifar10-resnet20": 64, "imagenet-resnet50": 4})
"""Images in one step, by classifier."""


@dataclass(frozen=True, kw_only=True)
class HeatStepSettings:
    """How a heat step is measured.

    Args:
        kappa: κ, draws in one step.
        repeats: counted runs of each variant and of each part of the floor; medians are reported.
        variance_draws: estimates of ‖∇v‖² by each estimator, whose spread is reported.
        seed: decides the weights, the images and all draws.
        device: "cpu", "cuda", ….
    """

    kappa: int = 10
    repeats: int = 5
    variance_draws: int = 20
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        try:
            torch.ones(1, device=self.device).item()  # `meta` makes tensors, and computes nothing
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ParameterError(
                f"device: expected cpu or a device of this machine, got {self.device!r}: {reason}"
            ) from None

    @property
    def parameters(self) -> HeatParameters:
        """Equation (10) by Algorithm 1, as the paper ran it on ImageNet-1k: noise on half of the images."""
        return replace(heat_preset("paper-imagenet", BENCHMARK_SIGMA), kappa=self.kappa)

    def generator(self) -> torch.Generator:
        """The generator of the draws of one step: they are the same every time."""
        return torch.Generator(self.device).manual_seed(self.seed)

    @property
    def on_gpu(self) -> bool:
        """Whether the device runs behind the program's back, and counts its own memory."""
        return torch.device(self.device).type == "cuda"

    def record(self) -> HeatStepRecord:
        """How it is measured, now and here, as a record without a classifier yet."""
        from heatserve.benchmarks.records.heat_step import HeatStepRecord  # late: a bare GPU machine has no pydantic

        return HeatStepRecord(
            **vars(made_now(seed=self.seed)),
            threads=torch.get_num_threads(),
            device=self.device,
            device_name=torch.cuda.get_device_name(self.device) if self.on_gpu else None,
            sigma=self.parameters.sigma,
            delta=self.parameters.delta,
            kappa=self.kappa,
            repeats=self.repeats,
            variance_draws=self.variance_draws,
            shapes={},
        )


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
class StepVariant:
    """One way to take a step: the memory layout of network and images, and the method, given f and its parameters."""

    layout: torch.memory_format
    method: Callable[[nn.Module, HeatParameters], Method]


STEP_VARIANTS: Mapping[str, StepVariant] = MappingProxyType(
    {
        "naive": StepVariant(torch.contiguous_format, NaiveHeatLoss),
        "naive, one v(x)": StepVariant(torch.contiguous_format, lambda f, p: NaiveHeatLoss(f, p, fresh=False)),
        "heat": StepVariant(torch.channels_last, HeatLoss),
        "heat, all draws at once": StepVariant(
            torch.channels_last, lambda f, p: HeatLoss(f, replace(p, draws_at_once=p.kappa))
        ),
        "heat, displacements": StepVariant(
            torch.channels_last, lambda f, p: HeatLoss(f, replace(p, estimator="displacements"))
        ),
        "cross-entropy": StepVariant(torch.channels_last, lambda _f, _p: CrossEntropy()),
    }
)

TimedWork = Callable[[], object]
"""A forward and a backward pass, or a part of one, that is timed."""


@dataclass(frozen=True)
class Workload:
    """What a step is taken on: from the same seed the same in every process, whatever the memory layout."""

    network: nn.Module
    base: nn.Module
    images: Tensor
    labels: Tensor

    def step(self, name: str, settings: HeatStepSettings) -> TimedWork:
        """A step of that variant, its gradients cleared first."""
        self.network.zero_grad()
        method = STEP_VARIANTS[name].method(self.base, settings.parameters)
        generator = settings.generator()
        return lambda: method(self.network, self.images, self.labels, generator)


def build_workload(
    shape: ClassifierShape, batch_size: int, settings: HeatStepSettings, layout: torch.memory_format
) -> Workload:
    """Random networks v and f and a random batch, in one memory layout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network, base = (random_network(shape) for _ in range(2))
        images = torch.rand(batch_size, *shape.input_shape)
        labels = torch.randint(shape.num_classes, (batch_size,))
    for module in (network, base):
        module.to(settings.device, memory_format=layout)  # type: ignore[call-overload]
    images = images.to(settings.device, memory_format=layout)
    return Workload(network.train(), base.eval(), images, labels.to(settings.device))
