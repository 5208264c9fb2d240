"""The classifiers whose speed is measured. Their weights are random, which speed does not mind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from heatserve.export.graph.build import logits_graph

if TYPE_CHECKING:
    import onnx
    from torch import nn

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


def random_classifier(shape: ClassifierShape, seed: int) -> onnx.ModelProto:
    """The logits graph of a network of this shape."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = random_network(shape)
    return logits_graph(network, input_shape=shape.input_shape)
