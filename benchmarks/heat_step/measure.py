"""What a heat step costs: Algorithm 1 as it is printed, as `train heat` takes it, and the floor below both.

Everything is timed interleaved in one run, on random images and randomly initialised networks, which speed does not
mind. A step is a forward and a backward: no optimiser, no data loading.

The *floor* is the sum of what Algorithm 1 needs draw by draw, each part timed alone: f(x), v(x), κ input gradients,
forward and backward of κ displaced batches, and one backward through v(x). Below it come only the variants that need
less: displacements, without input gradients, and all draws at once, where larger batches are faster by the image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatserve.benchmarks.heat_step.memory import peak_mib
from heatserve.benchmarks.heat_step.steps import VARIANTS, Settings, Shape, Work, Workload, build
from heatserve.training.methods.heat import frozen_statistics, squared_slopes

SMALL_DELTA = 0.001
"""Beside the paper's δ: so small that all estimators of ‖∇v‖² have the same mean, and no smaller."""


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
        "displaced, both ways": (_displaced, lambda kappa: kappa),
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
