"""What a certificate costs: the same classifier five ways, interleaved in one run.

`plain` and `certified` are raw ONNX Runtime on the classifier without and with its certificate; `grpc` and `http` are
the certified graph asked through Triton and heatserve's client; `stochastic` is what they replace, n₀ noisy passes as
one batch in raw ONNX Runtime, noise and votes included (the classification time of the paper's Table 2).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from heatserve.benchmarks.classifiers import (
    BENCHMARK_SIGMA,
    CLASSIFIERS,
    PREDICT_VOTES,
    ClassifierShape,
    publish_uncalibrated,
    random_classifier,
)
from heatserve.benchmarks.load.server_use import look_at_server
from heatserve.benchmarks.records.speed import ClassifierLatency, Milliseconds, Ratio
from heatserve.certification.errors import HeatserveError
from heatserve.certification.noise import LEVELS
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.radius import Float32Array
from heatserve.export.graph.build import plain_graph
from heatserve.export.onnxruntime_start import pool_threads
from heatserve.export.repository.layout import CONFIG_NAME, ModelVersion
from heatserve.export.repository.settings import THREADS, VOTE_THREADS, read_config, write_config
from heatserve.export.runtime.session import open_session
from heatserve.export.runtime.timing import Way, interleave, quantiles, ratio
from heatserve.export.tiers import TierModel
from heatserve.serving.client.client import Client
from heatserve.serving.triton.endpoints import FREE_PORTS
from heatserve.serving.triton.server import TritonServer

_DEADLINE = 50.0
"""Seconds of a request of the way `certify`."""
_CERTIFY_ALPHA = 0.001
"""α of the way `certify`, which its time does not depend on: the number of votes is fixed."""


def measure_latency(name: str, *, rounds: int, seed: int, progress: Progress = unseen) -> ClassifierLatency:
    """Milliseconds of a request for one image, each way, and their ratios.

    Args:
        name: the classifier's name in `CLASSIFIERS`.
        rounds: counted blocks each way (`heatserve.export.runtime.timing`).
        seed: decides the weights, the image, the noise and the order of the ways.
        progress: shows the rounds.
    """
    shape, n0 = CLASSIFIERS[name], PREDICT_VOTES[name]
    with ways_to_answer(shape, n0, seed) as ways:
        times = interleave(ways, rounds=rounds, seed=seed, progress=progress, description=name)
    ratios = [(way, "plain") for way in ways if way != "plain"] + [("stochastic", "grpc")]
    return ClassifierLatency(
        requests={way: sum(map(len, blocks)) for way, blocks in times.items()},
        n0=n0,
        milliseconds={way: Milliseconds(**quantiles(blocks)) for way, blocks in times.items()},
        ratios={f"{way} / {base}": Ratio(**ratio(times[way], times[base])) for way, base in ratios},
    )


def random_image(shape: ClassifierShape, seed: int) -> Float32Array:
    """An image of 8 bits that a seed decides, float32 [1, C, H, W] in [0,1]."""
    levels = np.random.default_rng(seed).integers(0, LEVELS + 1, (1, *shape.input_shape))
    return (levels / np.float32(LEVELS)).astype(np.float32)


@contextmanager
def ways_to_answer(shape: ClassifierShape, n0: int, seed: int, *, certify: bool = False) -> Iterator[dict[str, Way]]:
    """The five ways to answer, all on `pool_threads` threads, Triton running.

    Args:
        shape: the classifier.
        n0: noisy passes of the way `stochastic`.
        seed: decides the weights, the image and the noise.
        certify: a sixth way, `certify`: as many noisy passes by the tier of that name behind the same server, over
            gRPC. They guess the class and bound its probability, so that the answer has a radius, as the single pass
            has one. Who takes the votes has the priority of this process then.
    """
    noise = np.random.default_rng(seed)
    image = random_image(shape, seed)
    logits = random_classifier(shape, seed)
    plain = open_session(plain_graph(logits).SerializeToString())
    with ExitStack() as stack:
        repository = Path(stack.enter_context(TemporaryDirectory(prefix="heatserve-bench-")))
        model = publish_uncalibrated(logits, shape, repository, "latency", tiers=(TierModel.CERTIFY,) * certify)
        _set_threads(model, pool_threads())
        certified = open_session(model.path / "model.onnx")
        names = [output.name for output in certified.get_outputs()]
        server = stack.enter_context(TritonServer(repository, endpoints=FREE_PORTS))
        grpc, http = (
            stack.enter_context(Client(url, model=model.name))
            for url in (server.endpoints.grpc_url, server.endpoints.http_url)
        )

        def stochastic() -> np.intp:
            noisy = image + np.float32(BENCHMARK_SIGMA) * noise.standard_normal(
                (n0, *shape.input_shape), dtype=np.float32
            )
            votes: Float32Array = plain.run(["probabilities"], {"image": noisy})[0]
            return np.bincount(votes.argmax(1)).argmax()

        ways: dict[str, Way] = {
            "plain": lambda: plain.run(["probabilities"], {"image": image}),
            "certified": lambda: certified.run(names, {"image": image}),
            "grpc": lambda: grpc.predict(image),
            "http": lambda: http.predict(image),
            "stochastic": stochastic,
        }
        if certify:
            prioritise_voters()
            ways["certify"] = lambda: _certify(grpc, image, n0)
        yield ways


def _set_threads(model: ModelVersion, threads: int) -> None:
    """Have the server compute on as many threads as the ways in this process do: single passes and votes."""
    path = model.path.parent / CONFIG_NAME
    config = read_config(path)
    for name in (THREADS, VOTE_THREADS):
        config.parameters[name].string_value = str(threads)
    write_config(path, config)


def _certify(client: Client, image: Float32Array, n0: int) -> None:
    """As many noisy passes as n₀ by `certify`: a tenth of them guess the class, the others bound its probability.

    Raises:
        HeatserveError: they were not all taken, which would be no time of a classification.
    """
    guess = max(1, n0 // 10)
    (answer,) = client.certify_fixed(image, alpha=_CERTIFY_ALPHA, n0=guess, n=n0 - guess, deadline=_DEADLINE)
    if answer.votes != n0:
        raise HeatserveError(
            f"certify: expected {n0} votes within {_DEADLINE:g} s, got {answer.votes}: measure where nothing else runs"
        )


def prioritise_voters() -> None:
    """Have the voters of this process's servers compute as it does itself, as far as the system allows that.

    They step back before everything else on the machine (SCHED_IDLE), so that what they are timed at would be the work
    of others.
    """
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for process, kind in look_at_server(os.getpid(), apart=set()).kinds.items():
        for thread in os.listdir(f"/proc/{process.pid}/task") if kind == "voter" else ():
            with suppress(OSError):
                os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, int(thread), own)
                Path(f"/proc/{process.pid}/autogroup").write_text(str(own))
