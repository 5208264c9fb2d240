"""What is measured: a Triton of its own with one model, its tiers, and a model that computes nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx

from heatserve.benchmarks.classifiers import CLASSIFIERS, ClassifierShape, publish_uncalibrated, random_classifier
from heatserve.benchmarks.load.floors import identity_graph
from heatserve.benchmarks.load.messages import LoadRequest
from heatserve.benchmarks.load.server_use import look_at_server
from heatserve.benchmarks.records.load import Protocol
from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float32Array
from heatserve.export.card import BASE_NAME, GRAPH_NAME, InputType
from heatserve.export.repository.layout import CONFIG_NAME, ModelVersion, model_names, served_config
from heatserve.export.repository.publishing import publish
from heatserve.export.repository.settings import write_config
from heatserve.export.repository.tiers import served_tiers
from heatserve.export.runtime.session import as_levels
from heatserve.export.tiers import TierModel, tier_tensors
from heatserve.serving.client.client import Client
from heatserve.serving.pixels import Pixels
from heatserve.serving.triton.endpoints import FREE_PORTS
from heatserve.serving.triton.offers import place_model
from heatserve.serving.triton.server import TritonServer

ONE_PASS, IDENTITY = "one pass", "identity"
TAKEN_IN_TURN = 64
"""The images that requests take in turn, at most."""
_ASKED_FIRST_SECONDS = 60.0


@dataclass(frozen=True)
class ServedModels:
    """A repository with what is asked."""

    name: str
    repository: Path
    weights: Literal["random", "served"]
    architecture: str
    input: InputType
    input_shape: tuple[int, int, int]
    models: Mapping[InputType, str]
    """The single pass by what it takes; the first is the model that was named."""
    graph: Path
    """What the first of them serves."""
    tiers: tuple[TierModel, ...]
    images: Float32Array
    """[M, C, H, W] in [0,1], of 8 bits."""
    data: str
    """Where the images are from."""

    def pixels(self, input_type: InputType) -> Pixels:
        """The images as a model takes them."""
        return as_levels(self.images) if input_type == "UINT8" else self.images

    def one_pass(self, protocol: Protocol, *, input_type: InputType | None = None, count: int = 1) -> LoadRequest:
        """The request for the single pass: all outputs."""
        kind = input_type or self.input
        return LoadRequest(ONE_PASS, self.models[kind], protocol, self.pixels(kind), count)

    def identity(self, protocol: Protocol) -> LoadRequest:
        """The same request to the model that computes nothing."""
        return LoadRequest(IDENTITY, _identity_name(self.name), protocol, self.pixels(self.input))

    def tier(self, kind: TierModel, protocol: Protocol, radius: float) -> LoadRequest:
        """A request for a tier, one image; of a cascade, to confirm what is claimed."""
        names = tuple(tensor.name for tensor in tier_tensors(kind))
        return LoadRequest(
            kind.value,
            kind.beside(self.name),
            protocol,
            self.pixels(self.input),
            outputs=names,
            parameters={"radius": radius} if kind.asks_radius else {},
        )

    def mix(self, radius: float) -> list[LoadRequest]:
        """One pass over each protocol, and confirm of this radius where there is that tier."""
        requests = [self.one_pass("grpc"), self.one_pass("http")]
        if TierModel.CONFIRM in self.tiers:
            requests.append(self.tier(TierModel.CONFIRM, "grpc", radius))
        return requests


@dataclass(frozen=True)
class Setting:
    """The server, running."""

    served: ServedModels
    urls: Mapping[Protocol, str]
    apart: frozenset[int]
    """Our processes that are not the server's."""


@contextmanager
def running(served: ServedModels, backend_directory: Path | None = None) -> Iterator[Setting]:
    """Start a Triton on all models, and ask each once, with the checks of our client.

    Our processes that ask must run already: all that is started after them counts as the server's.

    Raises:
        ServingError: Triton does not start, or an answer is not that of a certified model.
    """
    apart = frozenset(process.pid for process in look_at_server(os.getpid(), apart=frozenset()).kinds)
    names = [*served.models.values(), _identity_name(served.name)]
    with TritonServer(
        served.repository, models=names, endpoints=FREE_PORTS, backend_directory=backend_directory
    ) as server:
        urls: dict[Protocol, str] = {"grpc": server.endpoints.grpc_url, "http": server.endpoints.http_url}
        for url in urls.values():
            for input_type, name in served.models.items():
                with Client(url, model=name, timeout=_ASKED_FIRST_SECONDS) as client:
                    client.predict(served.pixels(input_type)[:1])
        yield Setting(served, urls, apart)


@contextmanager
def random_models(name: str, *, seed: int) -> Iterator[ServedModels]:
    """A classifier with random weights, which takes FP32 under its own name, and UINT8 under another.

    Args:
        name: in `CLASSIFIERS`.
        seed: decides the weights and the images.
    """
    shape, logits = CLASSIFIERS[name], random_classifier(CLASSIFIERS[name], seed)
    levels = np.random.default_rng(seed).integers(0, 256, (TAKEN_IN_TURN, *shape.input_shape), dtype=np.uint8)
    models: dict[InputType, str] = {"FP32": name, "UINT8": f"{name}-uint8"}
    with TemporaryDirectory(prefix="heatserve-load-") as folder:
        repository = Path(folder)
        published = [
            publish_uncalibrated(logits, shape, repository, model, input_type=input_type)
            for input_type, model in models.items()
        ]
        _publish_identity(published[0], logits, shape, repository)
        yield ServedModels(
            name=name,
            repository=repository,
            weights="random",
            architecture=shape.architecture,
            input="FP32",
            input_shape=shape.input_shape,
            models=models,
            graph=published[0].path / GRAPH_NAME,
            tiers=(),
            images=levels / np.float32(255),
            data="random",
        )


@contextmanager
def repository_models(model: ModelVersion, images: Float32Array, data: str) -> Iterator[ServedModels]:
    """A model as it is configured, with its tiers, from a folder of its own: the model's is only read.

    Args:
        model: of a repository.
        images: [M, C, H, W] in [0,1], of 8 bits, which requests take in turn.
        data: where they are from.

    Raises:
        HeatserveError: it takes pictures of any size, or a plan or GPU, of which no floor is known here.
    """
    card = model.card
    if card.resize or card.plan or card.accelerator:
        raise HeatserveError(f"{model.name}: expected a model of one image size, served on CPUs; got another")
    architecture = str(card.training.get("architecture", "unknown"))
    shape = ClassifierShape(architecture, card.input_shape, len(card.class_names))
    tiers = served_tiers(model)
    with TemporaryDirectory(prefix="heatserve-load-") as folder:
        repository = Path(folder)
        place_model(repository / model.name, model, served_config(model))
        for kind, config in tiers.items():
            (repository / kind.beside(model.name)).mkdir()
            write_config(repository / kind.beside(model.name) / CONFIG_NAME, config)
        if card.is_deterministic:
            _publish_proven_identity(model, repository)
        else:
            _publish_identity(model, onnx.load(model.path / BASE_NAME), shape, repository)
        yield ServedModels(
            name=model.name,
            repository=repository,
            weights="served",
            architecture=architecture,
            input=card.input_type,
            input_shape=card.input_shape,
            models={card.input_type: model.name},
            graph=model.path / GRAPH_NAME,
            tiers=tuple(tiers),
            images=images,
            data=data,
        )


def is_random(name: str, repository: Path) -> bool:
    """Whether a name is that of a classifier with random weights, and not of a model in the repository, which wins.

    Raises:
        HeatserveError: it is neither.
    """
    if (repository / name).is_dir():
        return False
    if name not in CLASSIFIERS:
        raise HeatserveError(
            f"model: expected one of {', '.join([*model_names(repository), *CLASSIFIERS])}, got {name}"
        )
    return True


def _publish_identity(model: ModelVersion, logits: onnx.ModelProto, shape: ClassifierShape, repository: Path) -> None:
    name, input_type = _identity_name(model.name), model.card.input_type
    publish_uncalibrated(logits, shape, repository, name, input_type=input_type, change=identity_graph)


def _publish_proven_identity(model: ModelVersion, repository: Path) -> None:
    """The same beside a deterministic certificate, whose graph has other constants."""
    graph = identity_graph(onnx.load(model.path / GRAPH_NAME)).SerializeToString()
    sha256 = hashlib.sha256(graph).hexdigest()
    update = {"graph_sha256": sha256, "base_sha256": sha256}
    card = model.card.renamed(_identity_name(model.name)).model_copy(update=update)
    publish(repository, card, graph=graph, base=None)


def _identity_name(name: str) -> str:
    return f"{name}-identity"
