"""What a heat step costs: Algorithm 1 as it is printed, as `training.heat` takes it, and the floor below both.

Everything is timed interleaved in one run, on random images and randomly initialised networks, which speed does not
mind. A step is a forward and a backward: no optimiser, no data loading.

The *floor* is the sum of what Algorithm 1 needs draw by draw, each part timed alone: f(x), v(x), κ input gradients,
forward and backward of κ displaced batches, and one backward through v(x). Below it come only the variants that need
less: displacements, without input gradients, and all draws at once, where larger batches are faster by the image.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.architectures import build_network
from training.heat import HeatLoss, add_noise, frozen_statistics, squared_slopes
from training.method import CrossEntropy, Method, Terms
from training.parameters import HeatParameters, ParameterError, heat_preset

SIGMA = 0.25
SMALL_DELTA = 0.001
"""Beside the paper's δ: so small that all estimators of ‖∇v‖² have the same mean, and no smaller."""
MIB = 2**20
STATUS = Path("/proc/self/status")
"""Where Linux tells how much memory a process has."""


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


def measure(shape: Shape, settings: Settings, *, on_step: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Milliseconds and memory of each variant, the floor, and whether the variants compute the same.

    Args:
        shape: what to measure.
        settings: how.
        on_step: called after each piece of work, `steps(settings)` times in all.
    """
    peaks: dict[str, float | None] = {}
    for name in VARIANTS:
        peaks[name] = peak_mib(name, shape, settings)
        on_step()
    workloads = {layout: build(shape, settings, layout) for layout in (torch.contiguous_format, torch.channels_last)}
    times, floor = _times(workloads, settings, on_step)
    medians = {name: times[name]["median"] for name in VARIANTS}
    differences = gradient_differences(workloads, settings)
    on_step()
    estimators = []
    for name in ("projections", "displacements"):
        for delta in (settings.parameters.delta, SMALL_DELTA):
            estimators.append(estimates(workloads[torch.channels_last], name, delta, settings))
            on_step()
    return {
        **asdict(shape),
        "variants": {
            name: {
                "milliseconds": times[name],
                "images_per_second": 1000 * shape.batch_size / median,
                "speed_up": medians["naive"] / median,
                "ratio_to_floor": median / floor["milliseconds"],
                "peak_mib": peaks[name],
            }
            for name, median in medians.items()
        },
        "floor": floor,
        "gradient_differences": differences,
        "estimators": estimators,
    }


def steps(settings: Settings) -> int:
    """How often `measure` calls `on_step`."""
    return (1 + settings.repeats) * (len(VARIANTS) + len(FLOOR)) + len(VARIANTS) + 5


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


def _target(on: Workload) -> Work:
    def work() -> Tensor:
        with torch.no_grad():
            target: Tensor = on.base(on.images)
        return target

    return work


def _forward(on: Workload) -> Work:
    return lambda: on.network(on.images)


def _input_gradient(on: Workload) -> Work:
    x = on.images.clone().requires_grad_()
    v = on.network(x)
    return lambda: torch.autograd.grad(v, x, grad_outputs=torch.ones_like(v), retain_graph=True)


def _displaced(on: Workload) -> Work:
    return lambda: on.network(on.images).sum().backward()


def _backward(on: Workload) -> Work:
    v = on.network(on.images)
    return lambda: v.sum().backward()


FLOOR: Mapping[str, tuple[Callable[[Workload], Work], Callable[[int], int]]] = MappingProxyType(
    {
        "f(x)": (_target, lambda _kappa: 1),
        "v(x)": (_forward, lambda _kappa: 1),
        "input gradient": (_input_gradient, lambda kappa: kappa),
        "displaced forward and backward": (_displaced, lambda kappa: kappa),
        "backward through v(x)": (_backward, lambda _kappa: 1),
    }
)
"""The parts of the floor: how each is prepared, untimed, and how often a step with κ draws needs it."""


def _times(
    workloads: Mapping[torch.memory_format, Workload], settings: Settings, on_step: Callable[[], object]
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Milliseconds of each variant, and the floor with its parts, interleaved."""
    fast = workloads[torch.channels_last]
    prepared: dict[str, Callable[[], Work]] = {
        **{name: partial(workloads[variant.layout].step, name, settings) for name, variant in VARIANTS.items()},
        **{name: partial(prepare, fast) for name, (prepare, _) in FLOOR.items()},
    }
    seconds: dict[str, list[float]] = {name: [] for name in prepared}
    for round_ in range(-1, settings.repeats):  # round −1 warms up
        for name, prepare in prepared.items():
            elapsed = _timed(prepare(), settings)
            seconds[name] += [elapsed] if round_ >= 0 else []
            on_step()
    times = {name: _summary(np.array(values) * 1000) for name, values in seconds.items()}
    parts: dict[str, Any] = {
        name: {"count": count(settings.kappa), "milliseconds": times.pop(name)} for name, (_, count) in FLOOR.items()
    }
    floor = sum(part["count"] * part["milliseconds"]["median"] for part in parts.values())
    return times, {"milliseconds": floor, "parts": parts}


def _timed(work: Work, settings: Settings) -> float:
    """Seconds until the work is done; what it returns, a graph for example, is freed when the clock has stopped."""
    _wait(settings)
    start = time.perf_counter()
    result = work()
    _wait(settings)
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def _wait(settings: Settings) -> None:
    if settings.on_gpu:
        torch.cuda.synchronize(settings.device)


def _summary(values: Any) -> dict[str, float]:
    return {"median": float(np.median(values)), "min": float(values.min()), "max": float(values.max())}


def gradient_differences(workloads: Mapping[torch.memory_format, Workload], settings: Settings) -> dict[str, float]:
    """‖g − g′‖/‖g‖ of whole gradients, from the same weights, images and draws.

    "heat and naive" in one memory layout: what the order of the work changes. "naive in both layouts": what rounding
    changes, where a ReLU's argument is so close to 0 that it decides the sign.
    """
    plain, fast = workloads[torch.contiguous_format], workloads[torch.channels_last]
    naive = _gradient("naive", fast, settings)
    return {
        "heat and naive": _difference(_gradient("heat", fast, settings), naive),
        "naive in both layouts": _difference(_gradient("naive", plain, settings), naive),
    }


def _gradient(name: str, on: Workload, settings: Settings) -> Tensor:
    on.step(name, settings)()
    return torch.cat([p.grad.double().flatten() for p in on.network.parameters() if p.grad is not None])


def _difference(vector: Tensor, reference: Tensor) -> float:
    return float((vector - reference).norm() / reference.norm())


def estimates(on: Workload, estimator: str, delta: float, settings: Settings) -> dict[str, Any]:
    """Mean and relative spread (standard deviation ÷ mean) of estimates of ‖∇v‖², each from κ draws.

    As δ goes to 0 the mean is the same for all estimators. At the paper's δ each has its own finite-difference error:
    along its gradient a network bends sooner than in a random direction, a random one of many layers much sooner.

    Returns:
        "estimator", "delta", "mean" over batch and estimates, "spread_of_a_batch" of the mean over the batch, which
        one step sees, and "spread_of_an_image", averaged over the batch, which does not depend on the batch's size.
    """
    p = replace(settings.parameters, estimator=estimator, delta=delta, normalisation="unbiased")
    x = on.images.clone().requires_grad_()
    v = on.network(x)
    found = []
    with torch.no_grad(), frozen_statistics(on.network):
        for seed in range(settings.variance_draws):
            generator = torch.Generator(settings.device).manual_seed(settings.seed + seed)
            squares = torch.cat(list(squared_slopes(on.network, x, v, v.detach(), p, generator)))
            found.append(squares.sum(0))
    values = torch.stack(found).double()  # [estimates, N]
    batch = values.mean(1)
    return {
        "estimator": estimator,
        "delta": delta,
        "mean": float(batch.mean()),
        "spread_of_a_batch": float(batch.std() / batch.mean()),
        "spread_of_an_image": float((values.std(0) / values.mean(0)).mean()),
    }


def peak_mib(name: str, shape: Shape, settings: Settings) -> float | None:
    """Largest memory that one step of that variant takes on top of weights and images; None where nobody tells.

    On a GPU what PyTorch has allocated; on a CPU the resident memory of a fresh process.
    """
    if settings.on_gpu:
        return _peak_on_gpu(name, shape, settings)
    if not STATUS.exists():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_of_this_process, name, shape, settings, torch.get_num_threads()).result()


def _peak_on_gpu(name: str, shape: Shape, settings: Settings) -> float:
    workload = build(shape, settings, VARIANTS[name].layout)
    workload.step(name, settings)()
    step = workload.step(name, settings)
    before = torch.cuda.memory_allocated(settings.device)
    torch.cuda.reset_peak_memory_stats(settings.device)
    step()
    return (torch.cuda.max_memory_allocated(settings.device) - before) / MIB


def _peak_of_this_process(name: str, shape: Shape, settings: Settings, threads: int) -> float:
    """The kernel's own high-water mark; getrusage's starts at that of the parent process."""
    torch.set_num_threads(threads)
    workload = build(shape, settings, VARIANTS[name].layout)
    one_image = replace(workload, images=workload.images[:1], labels=workload.labels[:1])
    one_image.step(name, replace(settings, kappa=1))()  # loads the code, starts the threads
    step = workload.step(name, settings)
    _give_back_freed_memory()
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def _give_back_freed_memory() -> None:
    """Otherwise the step finds it at hand, and it is not counted. Only the C library of GNU keeps any."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _resident(field: str) -> float:
    """MiB of this process: "VmRSS" now, "VmHWM" at most so far."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024
