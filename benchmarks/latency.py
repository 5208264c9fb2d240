"""What a certificate costs: the same classifier five ways, interleaved in one run.

`plain` and `certified` are raw ONNX Runtime on the classifier without and with its certificate; `grpc` and `http` are
the certified graph asked through Triton and heatserve's client; `stochastic` is what they replace, n₀ noisy passes as
one batch in raw ONNX Runtime, noise and votes included (the classification time of the paper's Table 2).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from certification.radius import Float32Array
from export.card import Card, now, versions
from export.graph import certified_graph, logits_graph, plain_graph
from export.repository import ModelVersion, publish
from export.session import open_session
from serving import FREE_PORTS, Client, TritonServer

SIGMA = 0.25
BLOCK = 10
"""Requests of one way in a row; one more, the first, is not counted: it finds the caches of the others."""
PAUSE = 0.02
"""Seconds between blocks, in which the threads of the previous way stop spinning for work."""


@dataclass(frozen=True)
class Shape:
    """A classifier of one architecture on images of one shape. Its weights are random: latency does not mind."""

    architecture: str
    input_shape: tuple[int, int, int]
    num_classes: int
    n0: int
    """Noisy passes that Predict would spend on one image (DESIGN.md section 5)."""


SHAPES = {
    "digits": Shape("digits_cnn", (1, 8, 8), 10, 100),
    "cifar10-resnet20": Shape("cifar_resnet20", (3, 32, 32), 10, 100),
    "cifar10-resnet34": Shape("cifar_resnet34", (3, 32, 32), 10, 100),
    "imagenet-resnet50": Shape("resnet50", (3, 224, 224), 1000, 25),
}

Way = Callable[[], object]
"""Answers one request for one image."""


def measure(shape: Shape, *, requests: int, seed: int, on_round: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Latencies of one image, in milliseconds, and their ratios.

    Args:
        shape: what to measure.
        requests: counted requests each way, at least; rounded up to whole blocks.
        seed: of the weights, the image and the noise.
        on_round: called after each round of blocks.

    Returns:
        p50, p90 and p99 each way, and the ratios of the medians.
    """
    with _ways(shape, seed) as ways:
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(-1, -(-requests // BLOCK)):  # round −1 warms up
            for name, way in ways.items():
                time.sleep(PAUSE)
                times = [_timed(way) for _ in range(BLOCK + 1)][1:]
                seconds[name] += times if round_ >= 0 else []
            on_round()
    milliseconds = {name: np.array(values) * 1000 for name, values in seconds.items()}
    p50 = {name: float(np.median(values)) for name, values in milliseconds.items()}
    return {
        "requests": len(seconds["plain"]),
        "n0": shape.n0,
        "milliseconds": {
            name: {f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 99)}
            for name, values in milliseconds.items()
        },
        "ratios": {
            "certified / plain": p50["certified"] / p50["plain"],
            "grpc / plain": p50["grpc"] / p50["plain"],
            "http / plain": p50["http"] / p50["plain"],
            "stochastic / plain": p50["stochastic"] / p50["plain"],
            "stochastic / grpc": p50["stochastic"] / p50["grpc"],
        },
    }


def rounds(requests: int) -> int:
    """How often `measure` calls `on_round`."""
    return 1 + -(-requests // BLOCK)


def _timed(way: Way) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


@contextmanager
def _ways(shape: Shape, seed: int) -> Iterator[dict[str, Way]]:
    """The five ways to answer, Triton running."""
    noise = np.random.default_rng(seed)
    image = noise.random((1, *shape.input_shape), dtype=np.float32)
    logits = _random_classifier(shape, seed)
    plain = open_session(plain_graph(logits).SerializeToString())
    with ExitStack() as stack:
        repository = Path(stack.enter_context(TemporaryDirectory(prefix="heatserve-bench-")))
        model = _publish(logits, shape, repository)
        certified = open_session(model.path / "model.onnx")
        names = [output.name for output in certified.get_outputs()]
        server = stack.enter_context(TritonServer(repository, endpoints=FREE_PORTS))
        grpc, http = (
            stack.enter_context(Client(url, model=model.name))
            for url in (server.endpoints.grpc_url, server.endpoints.http_url)
        )

        def stochastic() -> np.intp:
            noisy = image + np.float32(SIGMA) * noise.standard_normal((shape.n0, *shape.input_shape), dtype=np.float32)
            votes: Float32Array = plain.run(["probabilities"], {"image": noisy})[0]
            return np.bincount(votes.argmax(1)).argmax()

        yield {
            "plain": lambda: plain.run(["probabilities"], {"image": image}),
            "certified": lambda: certified.run(names, {"image": image}),
            "grpc": lambda: grpc.predict(image),
            "http": lambda: http.predict(image),
            "stochastic": stochastic,
        }


def _random_classifier(shape: Shape, seed: int) -> onnx.ModelProto:
    import torch

    from training.architectures import build_network

    channels = shape.input_shape[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(
            shape.architecture,
            num_classes=shape.num_classes,
            input_shape=shape.input_shape,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
        )
    return logits_graph(network, input_shape=shape.input_shape)


def _publish(logits: onnx.ModelProto, shape: Shape, repository: Path) -> ModelVersion:
    graph, base = certified_graph(logits, sigma=SIGMA).SerializeToString(), logits.SerializeToString()
    card = Card(
        model="latency",
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        base_sha256=hashlib.sha256(base).hexdigest(),
        sigma=SIGMA,
        class_names=tuple(map(str, range(shape.num_classes))),
        input_shape=shape.input_shape,
        training={"weights": "random"},
        calibration=None,
        evaluation=None,
        versions=versions("torch", "onnx"),
        date=now(),
    )
    return publish(repository, card, graph=graph, base=base)
