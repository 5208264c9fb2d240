"""What a certificate costs on every engine at hand: plain classifier and certified graph, interleaved in one run.

A request is an array in memory and its answer another one: what a device copies counts, what a server adds does not
(`heatserve.benchmarks.latency` has that). Sessions are those of `heatserve.export.runtime.session`, which share one
pool of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
from onnx import parser

from heatserve.benchmarks.classifiers import BENCHMARK_SIGMA, CLASSIFIERS, random_classifier
from heatserve.benchmarks.records.speed import EngineRow, Milliseconds, PlainAndCertified, Ratio
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.radius import Float32Array
from heatserve.export.graph.build import certified_graph, plain_graph
from heatserve.export.images import LabelledImages
from heatserve.export.runtime.session import GraphError, as_input, open_session
from heatserve.export.runtime.timing import Times, Way, interleave, quantiles, ratio
from heatserve.export.variants import Variant

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS: Mapping[str, Literal["cuda", "tensorrt"] | None] = MappingProxyType(
    {"CPU": None, "CUDA": "cuda", "TensorRT": "tensorrt"}
)
"""Execution providers of ONNX Runtime, and what `heatserve.export.runtime.session` calls them."""

GRAPH_VARIANTS: Mapping[str, Callable[[Float32Array], Variant]] = MappingProxyType(
    {
        "fp32": lambda _: Variant(),
        "uint8": lambda _: Variant(input_type="UINT8"),
        "fp16": lambda _: Variant(precision="fp16"),
        "int8": lambda images: Variant(precision="int8", ranges=_ranges(images)),
    }
)
"""Forms of the served graph, given images FP32 [N, C, H, W]."""

_Name = tuple[str, str, str]
"""Engine, variant, `plain` or `certified`."""

_PROBE = """
<ir_version: 9, opset_import: ["" : 18]>
probe (float[N] image) => (float[N] copy) { copy = Identity(image) }
"""


def absent_providers() -> dict[str, str]:
    """Why a provider cannot be measured here, for each that cannot."""
    probe, absent = parser.parse_model(_PROBE).SerializeToString(), {}
    for engine, accelerator in PROVIDERS.items():
        try:
            open_session(probe, accelerator=accelerator)
        except GraphError as error:
            absent[engine] = str(error)
    return absent


def measure_engines(
    name: str,
    *,
    engines: Sequence[str],
    variants: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    seed: int,
    progress: Progress = unseen,
) -> tuple[EngineRow, ...]:
    """One row for each batch, engine and variant.

    Args:
        name: the classifier's name in `CLASSIFIERS`.
        engines: names in `PROVIDERS`, present here.
        variants: names in `GRAPH_VARIANTS`. All of them, on all engines, are interleaved in one run for each batch.
        batches: images in a request.
        rounds: counted blocks each way (`heatserve.export.runtime.timing`).
        seed: decides the weights, the images and the order of the ways.
        progress: shows the rounds of each batch.
    """
    shape = CLASSIFIERS[name]
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (max(batches), *shape.input_shape), dtype=np.uint8) / np.float32(255)
    logits = random_classifier(shape, seed)
    sessions: dict[_Name, onnxruntime.InferenceSession] = {}
    for variant in variants:
        network = GRAPH_VARIANTS[variant](images).of(logits)
        graphs = {"plain": plain_graph(network), "certified": certified_graph(network, sigma=BENCHMARK_SIGMA)}
        for engine, (kind, graph) in product(engines, graphs.items()):
            session = open_session(graph.SerializeToString(), accelerator=PROVIDERS[engine])
            sessions[engine, variant, kind] = session
    rows: list[EngineRow] = []
    for batch in batches:
        ways = {key: _way(session, images[:batch]) for key, session in sessions.items()}
        description = f"{name}, batch {batch}"
        times = interleave(ways, rounds=rounds, seed=seed, progress=progress, description=description)
        rows += [_row(times, batch, *pair) for pair in product(engines, variants)]
    return tuple(rows)


def _row(times: Mapping[_Name, Times], batch: int, engine: str, variant: str) -> EngineRow:
    plain, certified = times[engine, variant, "plain"], times[engine, variant, "certified"]
    fp32 = times.get((engine, "fp32", "certified"))
    return EngineRow(
        batch=batch,
        engine=engine,
        variant=variant,
        requests=sum(map(len, certified)),
        milliseconds=PlainAndCertified(
            plain=Milliseconds(**quantiles(plain)), certified=Milliseconds(**quantiles(certified))
        ),
        certified_to_plain=Ratio(**ratio(certified, plain)),
        fp32_to_variant=Ratio(**ratio(fp32, certified)) if fp32 else None,
    )


def _way(session: onnxruntime.InferenceSession, images: Float32Array) -> Way:
    """Asks for all outputs, as a server does that cannot know which of them are wanted."""
    request = {"image": as_input(session, images)}
    names = [output.name for output in session.get_outputs()]
    return lambda: session.run(names, request)


def _ranges(images: Float32Array) -> LabelledImages:
    """Random images that set the ranges of INT8 activations: speed does not mind."""
    return LabelledImages(images, np.zeros(len(images), np.int64), "random", "train", 0)
