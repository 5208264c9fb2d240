"""Table 2 on a GPU: one image, one pass against n₀ noisy passes, in each way that PyTorch has to run a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from heatserve.benchmarks.classifiers import BENCHMARK_SIGMA, CLASSIFIERS, PREDICT_VOTES, seeded_network
from heatserve.benchmarks.gpu.machine import GpuMachine, kept_or, made_here, write_plain
from heatserve.benchmarks.paper.eager import eager_pass, eager_votes
from heatserve.benchmarks.paper.pairs import speed_pair
from heatserve.benchmarks.records.table2 import ClassifierSpeed, SpeedRecord
from heatserve.export.runtime.timing import Way, interleave


@dataclass(frozen=True)
class GpuEngine:
    """One way to run a network in PyTorch."""

    layout: torch.memory_format = torch.contiguous_format
    dtype: torch.dtype = torch.float32
    graph: bool = False
    """Whether the kernels are started together, as a CUDA graph."""


GPU_ENGINES: Mapping[str, GpuEngine] = MappingProxyType(
    {
        "eager": GpuEngine(),
        "channels-last": GpuEngine(torch.channels_last),
        "float16": GpuEngine(torch.channels_last, torch.float16),
        "bfloat16": GpuEngine(torch.channels_last, torch.bfloat16),
        "cuda-graph": GpuEngine(torch.channels_last, graph=True),
        "cuda-graph-float16": GpuEngine(torch.channels_last, torch.float16, graph=True),
    }
)
"""`eager` is what the paper measured."""


def measure_gpu_speed(names: Sequence[str], out: Path, machine: GpuMachine, *, rounds: int, seed: int) -> SpeedRecord:
    """All engines of each classifier, interleaved; a classifier that is in `out` already is left as it is.

    Raises:
        TimeUp: the time is used; what was measured is written.
    """
    empty = SpeedRecord(
        **vars(made_here(seed)),
        sigma=BENCHMARK_SIGMA,
        rounds=rounds,
        threads=torch.get_num_threads(),
        device=machine.device,
        device_name=machine.name,
        shapes={},
    )
    record = kept_or(empty, out)
    for name in names:
        if name not in record.shapes:
            machine.check_time()
            found = _measure(name, machine, rounds=rounds, seed=seed)
            record = replace(record, shapes={**record.shapes, name: found})
            write_plain(out, record)
    return record


def _measure(name: str, machine: GpuMachine, *, rounds: int, seed: int) -> ClassifierSpeed:
    shape, n0 = CLASSIFIERS[name], PREDICT_VOTES[name]
    network = seeded_network(shape, seed).eval()
    image = torch.rand((1, *shape.input_shape), generator=torch.Generator().manual_seed(seed))
    ways: dict[tuple[str, str], Way] = {}
    for engine, how in GPU_ENGINES.items():
        if how.graph and not machine.on_gpu:
            continue
        deterministic, stochastic = _works(network, image, n0, shape.num_classes, how, machine.device)
        ways[engine, "deterministic"], ways[engine, "stochastic"] = _way(deterministic), _way(stochastic)
    times = interleave(ways, rounds=rounds, seed=seed, description=name)
    engines = dict.fromkeys(engine for engine, _ in ways)
    return ClassifierSpeed(
        architecture=shape.architecture,
        input_shape=shape.input_shape,
        n0=n0,
        engines={e: speed_pair(times[e, "deterministic"], times[e, "stochastic"]) for e in engines},
        votes_in_process_to_grpc=None,
    )


def _works(
    network: nn.Module, image: Tensor, n0: int, num_classes: int, how: GpuEngine, device: str
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """One pass and n₀ noisy passes, from the image on the device to the class on the device."""
    chosen = copy.deepcopy(network).to(device, how.dtype, memory_format=how.layout)  # type: ignore[call-overload]
    x = image.to(device, how.dtype, memory_format=how.layout)
    deterministic = lambda: eager_pass(chosen, x)  # noqa: E731
    stochastic = lambda: eager_votes(chosen, x, n0, num_classes)  # noqa: E731
    return (_as_graph(deterministic), _as_graph(stochastic)) if how.graph else (deterministic, stochastic)


def _way(work: Callable[[], Tensor]) -> Way:
    """Until the class is known to the program, which waits for the GPU."""
    return lambda: int(work())


def _as_graph(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """`work` as a CUDA graph; each call of it draws other noise, and its answer is overwritten by the next."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = work()

    def replay() -> Tensor:
        graph.replay()
        return answer

    return replay
