"""Triton as an engine of the conformance suite: the whole way of a request, over gRPC and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.provenance import now, versions
from heatserve.export.card import Card
from heatserve.export.card_parts import Calibration, MonteCarlo, OverclaimCount, Split
from heatserve.export.contract import INVALID_LABEL, OUTPUT_NAMES, RADIUS_NAMES, Reason, top_k_of
from heatserve.export.promise import NOTHING
from heatserve.export.repository.publishing import publish
from heatserve.export.runtime.session import Runner
from heatserve.serving.client.connection import Connection
from heatserve.serving.conformance.engine import EngineMissingError
from heatserve.serving.conformance.probe import Probe
from heatserve.serving.errors import ServingError
from heatserve.serving.triton.endpoints import FREE_PORTS
from heatserve.serving.triton.installation import find_triton
from heatserve.serving.triton.server import TritonServer

_NAME = "probe"
_REFUSALS = ("image: expected finite values in [0,1]", "probabilities: expected numbers")
_NO_IMAGES = Split(dataset="none", split="none", images=0, seed=0)


@contextmanager
def triton_engine(probe: Probe) -> Iterator[Runner]:
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
        base = None if probe.bound else probe.encoding.network(probe.classes).SerializeToString()
        publish(Path(folder), _card(probe, base or probe.graph), graph=probe.graph, base=base, tiers=())
        server = stack.enter_context(TritonServer(Path(folder), endpoints=FREE_PORTS))
        connection = Connection(server.endpoints.grpc_url, timeout=60)
        stack.callback(connection.close)

        def answer(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
            try:
                return connection.infer(_NAME, images, classes=probe.classes)
            except ServingError as error:
                if not str(error).startswith(_REFUSALS):
                    raise
            if len(images) == 1:
                return _refused(probe.classes)
            halves = [answer(half) for half in np.array_split(images, 2)]
            return {name: np.concatenate([half[name] for half in halves]) for name in OUTPUT_NAMES}

        yield answer


def _refused(classes: int) -> dict[str, NDArray[Any]]:
    nothing = np.zeros(1, np.float32)
    return {
        "label": np.array([INVALID_LABEL]),
        "probabilities": np.full((1, classes), 1 / classes, np.float32),
        "top_k": np.arange(top_k_of(classes))[None],
        **dict.fromkeys(RADIUS_NAMES, nothing),
        "reason": np.array([int(Reason.INVALID)]),
    }


def _card(probe: Probe, base: bytes) -> Card:
    """A card that lets the server start, and promises nothing."""
    calibration = Calibration(
        promise=NOTHING,
        method="none",
        alpha=1,
        confidence=0,
        looks=1,
        spent=0,
        level=1,
        target=None,
        radius_map=probe.radius_map,
        guard=probe.guard,
        fit=_NO_IMAGES,
        check=_NO_IMAGES,
        monte_carlo=MonteCarlo(n0=0, n=0, alpha=1, seed=0),
        overclaim=OverclaimCount(images=0, positive=0, overclaims=0),
    )
    return Card(
        model=_NAME,
        graph_sha256=hashlib.sha256(probe.graph).hexdigest(),
        base_sha256=hashlib.sha256(base).hexdigest(),
        certificate_kind="deterministic" if probe.bound else "statistical",
        precision="fp64" if probe.bound else "fp32",
        lipschitz=probe.bound,
        sigma=probe.sigma,
        class_names=tuple(map(str, range(probe.classes))),
        input_shape=probe.shape,
        input_type=probe.encoding.input_type,
        training={},
        lineage=(),
        calibration=calibration if probe.radius_map.radii else None,
        evaluation=None,
        versions=versions("python", "onnx"),
        date=now(),
    )
