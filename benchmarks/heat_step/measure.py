"""What a heat step costs: Algorithm 1 as it is printed, as `train heat` takes it, and the floor below both.

Everything is timed interleaved in one run, on random images and randomly initialised networks, which speed does not
mind. A step is a forward and a backward: no optimiser, no data loading.

The *floor* is the sum of what Algorithm 1 needs draw by draw, each part timed by itself: f(x), v(x), κ input
gradients, forward and backward of κ displaced batches, and one backward through v(x). Only variants that need less
can be below it: displacements, which need no input gradients, and all draws at once, whose larger batches take less
time per image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatserve.benchmarks.classifiers import CLASSIFIERS
from heatserve.benchmarks.heat_step.memory import peak_mib
from heatserve.benchmarks.heat_step.steps import (
    STEP_VARIANTS,
    HeatStepSettings,
    TimedWork,
    Workload,
    build_workload,
)
from heatserve.benchmarks.records.heat_step import (
    ClassifierSteps,
    Floor,
    FloorPart,
    GradientDifferences,
    SlopeEstimate,
    StepCost,
    StepMilliseconds,
)
from heatserve.certification.progress import Progress, unseen
from heatserve.training.methods.heat import frozen_statistics, squared_slopes

SMALL_DELTA = 0.001
"""Measured beside the paper's δ. All estimators of ‖∇v‖² have the same mean here; smaller, rounding would count."""


def measure_heat_step(
    name: str, batch_size: int, settings: HeatStepSettings, *, progress: Progress = unseen
) -> ClassifierSteps:
    """Milliseconds and memory of each variant, the floor, and whether the variants compute the same.

    Args:
        name: the classifier's name in `CLASSIFIERS`.
        batch_size: images in one step.
        settings: how to measure.
        progress: shows the variants whose memory is known, the rounds of timing, and the estimates of ‖∇v‖².
    """
    shape = CLASSIFIERS[name]
    variants = progress(STEP_VARIANTS, len(STEP_VARIANTS), f"{name}: memory")
    peaks = {variant: peak_mib(variant, shape, batch_size, settings) for variant in variants}
    workloads = {
        layout: build_workload(shape, batch_size, settings, layout)
        for layout in (torch.contiguous_format, torch.channels_last)
    }
    times, floor = _times(workloads, settings, progress, f"{name}: time")
    pairs = [*product(("projections", "displacements"), (settings.parameters.delta, SMALL_DELTA))]
    fast = workloads[torch.channels_last]
    return ClassifierSteps(
        **asdict(shape),
        batch_size=batch_size,
        variants={
            variant: StepCost(
                milliseconds=times[variant],
                images_per_second=1000 * batch_size / times[variant].median,
                speed_up=times["naive"].median / times[variant].median,
                ratio_to_floor=times[variant].median / floor.milliseconds,
                peak_mib=peak,
            )
            for variant, peak in peaks.items()
        },
        floor=floor,
        gradient_differences=gradient_differences(workloads, settings),
        estimators=tuple(
            slope_estimate(fast, estimator, delta, settings)
            for estimator, delta in progress(pairs, len(pairs), f"{name}: estimates of ‖∇v‖²")
        ),
    )


def _target(on: Workload) -> TimedWork:
    def work() -> Tensor:
        with torch.no_grad():
            target: Tensor = on.base(on.images)
        return target

    return work


def _forward(on: Workload) -> TimedWork:
    return lambda: on.network(on.images)


def _input_gradient(on: Workload) -> TimedWork:
    x = on.images.clone().requires_grad_()
    v = on.network(x)
    return lambda: torch.autograd.grad(v, x, grad_outputs=torch.ones_like(v), retain_graph=True)


def _displaced(on: Workload) -> TimedWork:
    return lambda: on.network(on.images).sum().backward()


def _backward(on: Workload) -> TimedWork:
    v = on.network(on.images)
    return lambda: v.sum().backward()


FLOOR_PARTS: Mapping[str, tuple[Callable[[Workload], TimedWork], Callable[[int], int]]] = MappingProxyType(
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
    workloads: Mapping[torch.memory_format, Workload], settings: HeatStepSettings, progress: Progress, description: str
) -> tuple[dict[str, StepMilliseconds], Floor]:
    """Milliseconds of each variant, and the floor with its parts, interleaved."""
    fast = workloads[torch.channels_last]
    prepared: dict[str, Callable[[], TimedWork]] = {
        **{name: partial(workloads[variant.layout].step, name, settings) for name, variant in STEP_VARIANTS.items()},
        **{name: partial(prepare, fast) for name, (prepare, _) in FLOOR_PARTS.items()},
    }
    seconds: dict[str, list[float]] = {name: [] for name in prepared}
    for round_ in progress(range(-1, settings.repeats), 1 + settings.repeats, description):  # round −1 warms up
        for name, prepare in prepared.items():
            elapsed = _timed(prepare(), settings)
            seconds[name] += [elapsed] if round_ >= 0 else []
    times = {name: _summary(1000 * np.array(values, np.float64)) for name, values in seconds.items()}
    parts = {
        name: FloorPart(count=count(settings.kappa), milliseconds=times.pop(name))
        for name, (_, count) in FLOOR_PARTS.items()
    }
    floor = sum(part.count * part.milliseconds.median for part in parts.values())
    return times, Floor(milliseconds=floor, parts=parts)


def _timed(work: TimedWork, settings: HeatStepSettings) -> float:
    """Seconds until the work is done; what it returns, a graph for example, is freed when the clock has stopped."""
    _wait(settings)
    start = time.perf_counter()
    result = work()
    _wait(settings)
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def _wait(settings: HeatStepSettings) -> None:
    if settings.on_gpu:
        torch.cuda.synchronize(settings.device)


def _summary(values: NDArray[np.float64]) -> StepMilliseconds:
    return StepMilliseconds(median=float(np.median(values)), min=float(values.min()), max=float(values.max()))


def gradient_differences(
    workloads: Mapping[torch.memory_format, Workload], settings: HeatStepSettings
) -> GradientDifferences:
    """How far the gradients of the variants differ that compute the same."""
    plain, fast = workloads[torch.contiguous_format], workloads[torch.channels_last]
    naive = _gradient("naive", fast, settings)
    return GradientDifferences(
        heat_and_naive=_difference(_gradient("heat", fast, settings), naive),
        naive_in_both_layouts=_difference(_gradient("naive", plain, settings), naive),
    )


def _gradient(name: str, on: Workload, settings: HeatStepSettings) -> Tensor:
    on.step(name, settings)()
    return torch.cat([p.grad.double().flatten() for p in on.network.parameters() if p.grad is not None])


def _difference(vector: Tensor, reference: Tensor) -> float:
    return float((vector - reference).norm() / reference.norm())


def slope_estimate(on: Workload, estimator: str, delta: float, settings: HeatStepSettings) -> SlopeEstimate:
    """Mean and relative spread of estimates of ‖∇v‖², each from κ draws.

    As δ goes to 0 the mean is the same for all estimators. At the paper's δ each has its own finite-difference error:
    along its gradient a network bends sooner than in a random direction, a random one of many layers much sooner.
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
    return SlopeEstimate(
        estimator=estimator,
        delta=delta,
        mean=float(batch.mean()),
        spread_of_a_batch=float(batch.std() / batch.mean()),
        spread_of_an_image=float((values.std(0) / values.mean(0)).mean()),
    )
