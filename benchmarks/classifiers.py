"""The classifiers whose speed is measured. Their weights are random: speed does not mind."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from heatserve.export.graph.build import logits_graph

SIGMA = 0.25
"""σ of their certificates."""


@dataclass(frozen=True)
class Shape:
    """A classifier of one architecture on images of one shape."""

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


def random_classifier(shape: Shape, seed: int) -> onnx.ModelProto:
    """The logits graph of a network of this shape."""
    import torch

    from heatserve.training.architectures import build_network

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
