"""Table 2 of the paper: seconds for one classification, in one pass and in n₀ noisy passes, on a CPU.

Three engines answer the same image with the same random weights, all interleaved in one run:

- `torch`: PyTorch, eager: what the paper measured. One pass, or n₀ noisy passes as one batch; the class is found.
- `onnxruntime`: raw ONNX Runtime. One pass of the certified graph, certificate included, or n₀ noisy passes of the
  plain graph as one batch, noise and votes included.
- `grpc`: heatserve's client and real Triton. One pass of the certified graph, or as many noisy passes by `certify`
  behind the same server: fresh noise, the class and a radius.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch

from heatserve.benchmarks.classifiers import BENCHMARK_SIGMA, CLASSIFIERS, PREDICT_VOTES, seeded_network
from heatserve.benchmarks.latency import random_image, ways_to_answer
from heatserve.benchmarks.paper.eager import eager_ways
from heatserve.benchmarks.paper.pairs import median_ratio, speed_pair
from heatserve.benchmarks.records.record import made_now, read_record, write_record
from heatserve.benchmarks.records.table2 import ClassifierSpeed, SpeedRecord
from heatserve.certification.errors import HeatserveError
from heatserve.certification.progress import Progress, unseen
from heatserve.export.runtime.timing import interleave

SPEED_CLASSIFIERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "digits": ("digits",),
        "cifar10": ("cifar10-resnet34", "cifar10-resnet20"),
        "imagenet": ("imagenet-resnet50",),
    }
)
"""Names in `CLASSIFIERS` by data set; the paper's own network is the first."""
SPEED_ROUNDS = 12
"""So many that the third ratio from either end bounds the median with a confidence of 0.96."""
SPEED_FILE = "speed.json"
"""In the folder of the results of a data set."""

_ENGINES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "torch": ("torch one pass", "torch noisy passes"),
        "onnxruntime": ("certified", "stochastic"),
        "grpc": ("grpc", "certify"),
    }
)
"""The deterministic and the stochastic way of each engine."""


def measure_speed(
    dataset: str,
    *,
    out: Path | None = None,
    seed: int = 0,
    progress: Progress = unseen,
) -> SpeedRecord:
    """Table 2 of one data set, whose images are not read: any image takes the same time, and so do random weights.

    A server is started for each classifier, with ports of its own. Run it where nothing else runs: the record has the
    load of the machine by others. It takes about two minutes for each of ResNet-34 and ResNet-50.

    Args:
        dataset: one of `SPEED_CLASSIFIERS`.
        out: the results file. It is written after each classifier; one that is there already, measured with the same
            options by the same versions on such a machine, is not measured again. None: no file.
        seed: decides the weights, the image, the noise and the order of the ways.
        progress: shows the rounds of each classifier.

    Raises:
        HeatserveError: a data set that the table has no column for.
        RecordError: `out` holds something else than a `SpeedRecord`.
    """
    if dataset not in SPEED_CLASSIFIERS:
        raise HeatserveError(f"data: expected one of {', '.join(SPEED_CLASSIFIERS)} for Table 2, got {dataset!r}")
    record = _kept(out, _empty_record(seed=seed))
    for name in SPEED_CLASSIFIERS[dataset]:
        if name not in record.shapes:
            found = measure_classifier(name, rounds=SPEED_ROUNDS, seed=seed, progress=progress)
            record = replace(record, shapes={**record.shapes, name: found})
            if out:
                write_record(out, record)
    return record


def is_measured(dataset: str, out: Path) -> bool:
    """Whether `out` has all of Table 2 of a data set, however it was measured."""
    return out.exists() and set(SPEED_CLASSIFIERS[dataset]) <= set(read_record(out, SpeedRecord).shapes)


def measure_classifier(name: str, *, rounds: int, seed: int, progress: Progress = unseen) -> ClassifierSpeed:
    """All engines with one classifier of `CLASSIFIERS`; see `measure_speed`."""
    shape, n0 = CLASSIFIERS[name], PREDICT_VOTES[name]
    image = torch.from_numpy(random_image(shape, seed))
    eager = eager_ways(seeded_network(shape, seed).eval(), image, n0, shape.num_classes)
    with ways_to_answer(shape, n0, seed, certify=True) as others:
        chosen = {way: others[way] for engine in ("onnxruntime", "grpc") for way in _ENGINES[engine]}
        ways = dict(zip(_ENGINES["torch"], eager, strict=True)) | chosen
        times = interleave(ways, rounds=rounds, seed=seed, progress=progress, description=name)
    return ClassifierSpeed(
        architecture=shape.architecture,
        input_shape=shape.input_shape,
        n0=n0,
        engines={engine: speed_pair(*(times[way] for way in pair)) for engine, pair in _ENGINES.items()},
        votes_in_process_to_grpc=median_ratio(times["stochastic"], times["grpc"]),
    )


def _empty_record(*, seed: int) -> SpeedRecord:
    return SpeedRecord(
        **vars(made_now(seed=seed)),
        sigma=BENCHMARK_SIGMA,
        rounds=SPEED_ROUNDS,
        threads=torch.get_num_threads(),
        device="cpu",
        device_name=None,
        shapes={},
    )


def _kept(out: Path | None, empty: SpeedRecord) -> SpeedRecord:
    """What `out` holds, where it was measured as `empty` would be."""
    if out is None or not out.exists():
        return empty
    kept = read_record(out, SpeedRecord)
    return kept if _settings(kept) == _settings(empty) else empty


def _settings(record: SpeedRecord) -> object:
    machine = replace(record.machine, load_average=None)
    return replace(record, command="", date="", machine=machine, shapes={})
