"""Peak memory of one heat step."""

from __future__ import annotations

import ctypes
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from heatserve.benchmarks.classifiers import ClassifierShape
from heatserve.benchmarks.heat_step.steps import STEP_VARIANTS, HeatStepSettings, build_workload

_MIB = 2**20
_STATUS = Path("/proc/self/status")  # where Linux tells how much memory a process has


def peak_mib(name: str, shape: ClassifierShape, batch_size: int, settings: HeatStepSettings) -> float | None:
    """Largest memory that one step of that variant takes on top of weights and images; None where nobody tells.

    On a GPU what PyTorch has allocated; on a CPU the resident memory of a fresh process.
    """
    if settings.on_gpu:
        return _peak_on_gpu(name, shape, batch_size, settings)
    if not _STATUS.exists():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        threads = torch.get_num_threads()
        return pool.submit(_peak_of_this_process, name, shape, batch_size, settings, threads).result()


def _peak_on_gpu(name: str, shape: ClassifierShape, batch_size: int, settings: HeatStepSettings) -> float:
    workload = build_workload(shape, batch_size, settings, STEP_VARIANTS[name].layout)
    workload.step(name, settings)()
    step = workload.step(name, settings)
    before = torch.cuda.memory_allocated(settings.device)
    torch.cuda.reset_peak_memory_stats(settings.device)
    step()
    return (torch.cuda.max_memory_allocated(settings.device) - before) / _MIB


def _peak_of_this_process(
    name: str, shape: ClassifierShape, batch_size: int, settings: HeatStepSettings, threads: int
) -> float:
    """The kernel's own high-water mark; getrusage's starts at that of the parent process."""
    torch.set_num_threads(threads)
    workload = build_workload(shape, batch_size, settings, STEP_VARIANTS[name].layout)
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
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024
