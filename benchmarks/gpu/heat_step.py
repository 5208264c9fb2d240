"""A heat step on a GPU, its draws one by one and all at once, compiled or not, beside a plain cross-entropy step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from heatserve.benchmarks.classifiers import BENCHMARK_SIGMA, CLASSIFIERS
from heatserve.benchmarks.gpu.machine import GpuMachine, TimeUp, kept_or, made_here, write_plain
from heatserve.benchmarks.heat_step.steps import STEP_VARIANTS, HeatStepSettings, Workload, build_workload
from heatserve.benchmarks.records.gpu import GpuStepsRecord, StepCell
from heatserve.training.architectures.errors import first_line

GPU_STEPS = ("cross-entropy", "heat", "heat, all draws at once")
"""Of `STEP_VARIANTS`."""
GPU_STEP_IMAGES: Mapping[str, int] = MappingProxyType(
    {"digits": 32, "cifar10-resnet20": 128, "cifar10-resnet34": 128, "imagenet-resnet50": 32}
)
"""Images in one step, by classifier."""
_WARM_UP = 3
_MIB = 2**20

_Variant = tuple[str, str, bool]
"""The step, its precision, and whether it is compiled."""


def measure_gpu_steps(
    names: Sequence[str], out: Path, machine: GpuMachine, *, kappa: int, runs: int, seed: int
) -> GpuStepsRecord:
    """Every variant of every classifier; cells that are in `out` already are left as they are.

    Raises:
        TimeUp: the time is used; what was measured is written.
    """
    empty = GpuStepsRecord(
        **vars(made_here(seed)),
        device=machine.device,
        device_name=machine.name,
        sigma=BENCHMARK_SIGMA,
        kappa=kappa,
        runs=runs,
        cells=(),
    )
    record = kept_or(empty, out)
    settings = HeatStepSettings(kappa=kappa, repeats=runs, seed=seed, device=machine.device)
    for name in names:
        for compiled, precision, step in product((False, True), ("float32", "bfloat16"), GPU_STEPS):
            there = {(cell.classifier, cell.step, cell.precision, cell.compiled) for cell in record.cells}
            if (name, step, precision, compiled) not in there:
                machine.check_time()
                cell = _measure_cell(name, (step, precision, compiled), machine, settings)
                record = replace(record, cells=(*record.cells, cell))
                write_plain(out, record)
    return record


def _measure_cell(name: str, variant: _Variant, machine: GpuMachine, settings: HeatStepSettings) -> StepCell:
    step, precision, compiled = variant
    batch_size = GPU_STEP_IMAGES[name]
    cell = StepCell(
        classifier=name,
        step=step,
        precision=precision,
        compiled=compiled,
        batch_size=batch_size,
        milliseconds=None,
        images_per_second=None,
        peak_mib=None,
        refused=None,
    )
    try:
        on = build_workload(CLASSIFIERS[name], batch_size, settings, STEP_VARIANTS[step].layout)
        take = _prepared(on, variant, settings)
        if machine.on_gpu:
            torch.cuda.reset_peak_memory_stats(machine.device)
        seconds = [_timed(take, machine) for _ in range(_WARM_UP + settings.repeats)][_WARM_UP:]
    except TimeUp:
        raise
    except Exception as error:  # out of memory, or what torch.compile cannot do here: the other cells go on
        return replace(cell, refused=first_line(error))
    median = float(np.median(seconds))
    peak = torch.cuda.max_memory_allocated(machine.device) / _MIB if machine.on_gpu else None
    return replace(cell, milliseconds=1000 * median, images_per_second=batch_size / median, peak_mib=peak)


def _prepared(on: Workload, variant: _Variant, settings: HeatStepSettings) -> Callable[[], object]:
    """One step, its gradients cleared first, with fresh draws."""
    step, precision, compiled = variant
    network: Any = on.network
    if compiled:
        import torch._functorch.config

        torch._functorch.config.donated_buffer = False  # the gradients of all draws go back through one graph
        torch._dynamo.reset()
        network = torch.compile(on.network)
    method, generator = STEP_VARIANTS[step].method(on.base, settings.parameters), settings.generator()

    def take() -> object:
        on.network.zero_grad()
        with _autocast(precision, settings.device):
            return method(network, on.images, on.labels, generator)

    return take


def _autocast(precision: str, device: str) -> AbstractContextManager[object]:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def _timed(take: Callable[[], object], machine: GpuMachine) -> float:
    machine.wait()
    start = time.perf_counter()
    take()
    machine.wait()
    return time.perf_counter() - start
