"""Noisy passes a second of Certify on a GPU: with noise from numpy, as everywhere here, and with noise from the GPU."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from heatserve.benchmarks.classifiers import BENCHMARK_SIGMA, CLASSIFIERS, ClassifierShape, seeded_network
from heatserve.benchmarks.gpu.machine import GpuMachine, kept_or, made_here, write_plain
from heatserve.benchmarks.records.gpu import GpuCertifyRecord, SamplesCell
from heatserve.benchmarks.torch_votes import torch_votes
from heatserve.certification.monte_carlo import Certificate, certificate_of, certify
from heatserve.certification.radius import Float32Array
from heatserve.training.architectures.errors import first_line

GPU_BATCH_SIZES = (128, 512, 2048, 8192)
_ALPHA = 0.001

CertifyWay = Callable[[int], Certificate]
"""Certify of one image at a batch size."""


def _certify_here(network: nn.Module, image: Float32Array, passes: int, device: str) -> CertifyWay:
    """heatserve's own Certify: float32 noise from numpy, the network on the device."""

    @torch.no_grad()
    def scores(images: Float32Array) -> Float32Array:
        found: Float32Array = network(torch.from_numpy(images).to(device)).float().cpu().numpy()
        return found

    n0 = max(1, passes // 100)
    return lambda size: next(
        certify(scores, image, sigma=BENCHMARK_SIGMA, n0=n0, n=passes - n0, alpha=_ALPHA, batch_size=size)
    )


def _votes_there(dtype: torch.dtype) -> Callable[[nn.Module, Float32Array, int, str], CertifyWay]:
    """Certify with noise, network and counts on the device, all of one type."""

    def make(network: nn.Module, image: Float32Array, passes: int, device: str) -> CertifyWay:
        chosen = copy.deepcopy(network).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.from_numpy(image).to(device, dtype)
        with torch.no_grad():
            classes = chosen(x).shape[1]
        n0 = max(1, passes // 100)

        def way(size: int) -> Certificate:
            counts0, counts = (
                torch_votes(chosen, x, count, sigma=BENCHMARK_SIGMA, num_classes=classes, batch_size=size).cpu().numpy()
                for count in (n0, passes - n0)
            )
            return certificate_of(counts0, counts, sigma=BENCHMARK_SIGMA, n=passes - n0, alpha=_ALPHA, top_k=1)

        return way

    return make


CERTIFY_WAYS: Mapping[str, Callable[[nn.Module, Float32Array, int, str], CertifyWay]] = MappingProxyType(
    {
        "certify": _certify_here,
        "noise on the device": _votes_there(torch.float32),
        "noise on the device, bfloat16": _votes_there(torch.bfloat16),
    }
)


def measure_gpu_certify(
    names: Sequence[str],
    out: Path,
    machine: GpuMachine,
    *,
    batch_sizes: Sequence[int],
    passes: int,
    runs: int,
    seed: int,
) -> GpuCertifyRecord:
    """Every way of every classifier at every batch size; cells that are in `out` already are left as they are.

    Raises:
        TimeUp: the time is used; what was measured is written.
    """
    made = made_here(seed)
    empty = GpuCertifyRecord(
        **vars(made), device=machine.device, device_name=machine.name, passes=passes, runs=runs, cells=()
    )
    record = kept_or(empty, out)
    for name in names:
        for way in CERTIFY_WAYS:
            for size in batch_sizes:
                there = {(cell.classifier, cell.way, cell.batch_size) for cell in record.cells}
                if (name, way, size) not in there:
                    machine.check_time()
                    cell = _measure_cell(name, way, size, machine, passes=passes, runs=runs, seed=seed)
                    record = replace(record, cells=(*record.cells, cell))
                    write_plain(out, record)
    return record


def _measure_cell(
    name: str, way: str, size: int, machine: GpuMachine, *, passes: int, runs: int, seed: int
) -> SamplesCell:
    shape = CLASSIFIERS[name]
    network = seeded_network(shape, seed).eval().to(machine.device)
    try:
        prepared = CERTIFY_WAYS[way](network, _image(shape, seed), passes, machine.device)
        prepared(size)
        seconds = [_timed(prepared, size, machine) for _ in range(runs)]
    except RuntimeError as error:  # out of memory, for example
        return SamplesCell(
            classifier=name, way=way, batch_size=size, samples_per_second=None, refused=first_line(error)
        )
    speed = passes / float(np.median(seconds))
    return SamplesCell(classifier=name, way=way, batch_size=size, samples_per_second=speed, refused=None)


def _timed(way: CertifyWay, size: int, machine: GpuMachine) -> float:
    machine.wait()
    start = time.perf_counter()
    way(size)
    machine.wait()
    return time.perf_counter() - start


def _image(shape: ClassifierShape, seed: int) -> Float32Array:
    return np.random.default_rng(seed).random((1, *shape.input_shape), dtype=np.float32)
