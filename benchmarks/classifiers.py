"""The classifiers whose speed is measured. Their weights are random, which speed does not mind.

What exports them is imported late: a bare GPU machine has no ONNX.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from heatserve.certification.provenance import now, versions

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from heatserve.export.card import InputType
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.export.tiers import TierModel

BENCHMARK_SIGMA = 0.25
"""σ of certificates and of noise, wherever only speed is measured."""


@dataclass(frozen=True)
class ClassifierShape:
    """A classifier of one architecture on images of one shape [C, H, W]."""

    architecture: str
    input_shape: tuple[int, int, int]
    num_classes: int


CLASSIFIERS: Mapping[str, ClassifierShape] = MappingProxyType(
    {
        "digits": ClassifierShape("digits_cnn", (1, 8, 8), 10),
        "cifar10-resnet20": ClassifierShape("cifar_resnet20", (3, 32, 32), 10),
        "cifar10-resnet34": ClassifierShape("cifar_resnet34", (3, 32, 32), 10),
        "imagenet-resnet50": ClassifierShape("resnet50", (3, 224, 224), 1000),
    }
)

PREDICT_VOTES: Mapping[str, int] = MappingProxyType(
    {"digits": 100, "cifar10-resnet20": 100, "cifar10-resnet34": 100, "imagenet-resnet50": 25}
)
"""n₀: noisy passes that Predict spends on one image in the paper's Table 2, by classifier."""


def random_network(shape: ClassifierShape) -> nn.Module:
    """A network of this shape, its weights drawn from torch's own generator."""
    from heatserve.training.architectures import build_network

    channels = shape.input_shape[0]
    return build_network(
        shape.architecture,
        num_classes=shape.num_classes,
        input_shape=shape.input_shape,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )


def seeded_network(shape: ClassifierShape, seed: int) -> nn.Module:
    """The network of this shape that a seed decides; torch's own generator is as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return random_network(shape)


def random_classifier(shape: ClassifierShape, seed: int) -> onnx.ModelProto:
    """The logits graph of `seeded_network`."""
    from heatserve.export.graph.build import logits_graph

    return logits_graph(seeded_network(shape, seed), input_shape=shape.input_shape)


def publish_uncalibrated(
    logits: onnx.ModelProto,
    shape: ClassifierShape,
    repository: Path,
    name: str,
    *,
    input_type: InputType = "FP32",
    change: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
    tiers: Collection[TierModel] = (),
) -> ModelVersion:
    """Add a classifier that promises nothing to a repository, to be served there.

    Args:
        logits: its logits graph, FP32 [N, C, H, W] → FP32 [N, K].
        shape: what it takes.
        repository: a folder.
        name: of the model.
        input_type: what the served graph takes.
        change: makes what is served of the certified graph, with the same constants; None: that is served.
        tiers: beside the single pass.
    """
    from heatserve.export.card import Card
    from heatserve.export.graph.build import certified_graph, uint8_input
    from heatserve.export.repository.publishing import publish

    network = uint8_input(logits) if input_type == "UINT8" else logits
    certified = certified_graph(network, sigma=BENCHMARK_SIGMA)
    graph, base = (change(certified) if change else certified).SerializeToString(), logits.SerializeToString()
    card = Card(
        model=name,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        base_sha256=hashlib.sha256(base).hexdigest(),
        sigma=BENCHMARK_SIGMA,
        class_names=tuple(map(str, range(shape.num_classes))),
        input_type=input_type,
        input_shape=shape.input_shape,
        training={"weights": "random", "architecture": shape.architecture},
        calibration=None,
        evaluation=None,
        versions=versions("python", "torch", "onnx"),
        date=now(),
    )
    return publish(repository, card, graph=graph, base=base, tiers=tiers)
