"""Triton as an engine that is held against float64: the whole way of a request, from the wire to the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.provenance import now, versions
from heatserve.export.card import Calibration, Card, MonteCarlo, OverclaimRate, Split
from heatserve.export.contract import INVALID_LABEL, OUTPUT_NAMES, OUTPUT_TENSORS, RADIUS_NAMES, top_k_of
from heatserve.export.repository.layout import publish
from heatserve.export.runtime.session import Runner
from heatserve.serving.client.wire import wire
from heatserve.serving.conformance import engines
from heatserve.serving.conformance.engines import Engine, EngineMissingError
from heatserve.serving.conformance.judge import Findings, conform, standard_probes
from heatserve.serving.conformance.probe import Probe
from heatserve.serving.errors import ServingError
from heatserve.serving.triton.endpoints import FREE_PORTS
from heatserve.serving.triton.installation import find_triton
from heatserve.serving.triton.server import TritonServer

Progress = Callable[[str, int], Callable[[], object]]
"""Told of an engine and the number of its probes, gives what is called after each of them."""

_NAME = "probe"
_REFUSALS = ("image: expected finite values in [0,1]", "probabilities: expected numbers")
_NO_IMAGES = Split(dataset="none", split="none", images=0, seed=0)


def conform_all(
    names: Sequence[str] | None, *, examples: int, seed: int, progress: Progress
) -> tuple[dict[str, Findings], dict[str, str]]:
    """Hold engines against float64, see `conform`: what was found, and why the others could not be run here.

    Args:
        names: keys of `ENGINES`; none: all.
        examples: hard cases for each probe.
        seed: of the cases.
        progress: see `Progress`.

    Raises:
        ServingError: an engine that is not known.
        EngineMissingError: none of them can be run here, so that nothing was found.
    """
    unknown = [name for name in names or () if name not in ENGINES]
    if unknown:
        raise ServingError(f"engine: expected one of {', '.join(ENGINES)}, got {unknown[0]}")
    findings, absent, probes = dict[str, Findings](), dict[str, str](), standard_probes(seed=seed)
    for name in names or ENGINES:
        on_probe = progress(name, len(probes))
        try:
            findings[name] = conform(ENGINES[name], probes, examples=examples, seed=seed, on_probe=on_probe)
        except EngineMissingError as error:
            absent[name] = str(error)
    if not findings:
        raise EngineMissingError("; ".join(f"{name} could not be run here. {why}" for name, why in absent.items()))
    return findings, absent


@contextmanager
def triton(probe: Probe) -> Iterator[Runner]:
    """A Triton of its own that serves the probe, asked over gRPC.

    An image that it refuses counts as label −1 with radius 0; the rest of the batch is then asked about again.

    Raises:
        EngineMissingError: there is no usable Triton on this machine.
        ServingError: Triton failed, or refused a request for another reason than an image that is invalid.
    """
    try:
        find_triton()
    except ServingError as error:
        raise EngineMissingError(str(error)) from None
    with TemporaryDirectory(prefix="heatserve-conformance-") as folder, ExitStack() as stack:
        base = probe.spelling.network(probe.classes).SerializeToString()
        publish(Path(folder), _card(probe, base), graph=probe.graph, base=base)
        server = stack.enter_context(TritonServer(Path(folder), endpoints=FREE_PORTS))
        connection = wire(server.endpoints.grpc_url, timeout=60, asynchronous=False)
        client = connection.client()
        stack.callback(client.close)

        def answer(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
            call = connection.infer(_NAME, images)
            try:
                with connection.explained():
                    return _outputs(getattr(client, call.method)(**call.arguments))
            except ServingError as error:
                if not str(error).startswith(_REFUSALS):
                    raise
            if len(images) == 1:
                return _refused(probe.classes)
            halves = [answer(half) for half in np.array_split(images, 2)]
            return {name: np.concatenate([half[name] for half in halves]) for name in OUTPUT_NAMES}

        yield answer


def _outputs(answer: Any) -> dict[str, NDArray[Any]]:
    """Triton sends one number per image as [N, 1]."""
    outputs = {tensor: answer.as_numpy(tensor.name) for tensor in OUTPUT_TENSORS}
    return {tensor.name: value if tensor.axes else value[:, 0] for tensor, value in outputs.items()}


def _refused(classes: int) -> dict[str, NDArray[Any]]:
    nothing = np.zeros(1, np.float32)
    return {
        "label": np.array([INVALID_LABEL]),
        "probabilities": np.full((1, classes), 1 / classes, np.float32),
        "top_k": np.arange(top_k_of(classes))[None],
        **dict.fromkeys(RADIUS_NAMES, nothing),
    }


def _card(probe: Probe, base: bytes) -> Card:
    """A card that lets the server start, and promises nothing."""
    calibration = Calibration(
        promise="nothing: this model only shows what Triton answers",
        method="none",
        alpha=1,
        confidence=0,
        target=None,
        radius_map=probe.radius_map,
        fit=_NO_IMAGES,
        check=_NO_IMAGES,
        monte_carlo=MonteCarlo(n0=0, n=0, alpha=1, seed=0),
        overclaim=OverclaimRate(images=0, positive=0, overclaims=0, upper_bound=1),
    )
    return Card(
        model=_NAME,
        graph_sha256=hashlib.sha256(probe.graph).hexdigest(),
        base_sha256=hashlib.sha256(base).hexdigest(),
        sigma=probe.sigma,
        class_names=tuple(map(str, range(probe.classes))),
        input_shape=(1, 3, probe.classes),
        input_type=probe.spelling.input_type,
        training={},
        calibration=calibration if probe.radius_map.radii else None,
        evaluation=None,
        versions=versions("python", "onnx"),
        date=now(),
    )


ENGINES: Mapping[str, Engine] = {**engines.ENGINES, "triton": triton}
"""All that heatserve can answer with."""
