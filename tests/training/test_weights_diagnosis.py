"""What test images say of imported weights, on a classifier whose right answers are known.

Each class is a colour, and each image its colour under noise; the network is the linear classifier that answers the
nearest colour, in the coordinates of the mean and std that it was made for.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from heatserve.certification.provenance import now
from heatserve.training.architectures import ImageClassifier
from heatserve.training.channels import IMAGENET_MEAN, IMAGENET_STD
from heatserve.training.checkpoint import Checkpoint, CheckpointError, CheckpointMetadata
from heatserve.training.data.errors import DataError
from heatserve.training.data.images import TensorImages
from heatserve.training.data.splits import ImageData
from heatserve.training.weights import diagnose
from heatserve.training.weights.classes import order_of_outputs
from heatserve.training.weights.normalisation import Statistics

CLASSES = 10
NAMES = tuple(f"colour {label}" for label in range(CLASSES))
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
HALF = ((0.5,) * 3, (0.5,) * 3)
NONE = ((0.0,) * 3, (1.0,) * 3)


def colours(classes: int) -> torch.Tensor:
    """As far from each other as the smallest grid of so many allows, in an arbitrary order."""
    steps = math.ceil(classes ** (1 / 3))
    grid = torch.cartesian_prod(*3 * [torch.linspace(0.1, 0.9, steps)])
    return grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(1))[:classes]]


def images_of(classes: int, count: int) -> ImageData:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(classes, (count,), generator=generator)
    noise = 0.1 * torch.randn(count, 3, 2, 2, generator=generator)
    pixels = (255 * (colours(classes)[labels][:, :, None, None] + noise)).clamp(0, 255).to(torch.uint8)
    names = tuple(f"colour {label}" for label in range(classes))
    return ImageData("colours", "test", TensorImages(pixels, labels), names, (3, 2, 2))


def network_for(statistics: Statistics, classes: int, outputs: list[int] | None = None) -> nn.Module:
    """The nearest colour, seen through `statistics`; output i is for the class outputs[i]."""
    mean, std = (torch.tensor(numbers) for numbers in statistics)
    seen = (colours(classes) - mean) / std
    linear = nn.Linear(12, classes)
    rows = list(range(classes)) if outputs is None else outputs
    with torch.no_grad():
        linear.weight.copy_((seen[rows][:, :, None].expand(-1, -1, 4).reshape(classes, 12)) / 4)
        linear.bias.copy_(-(seen[rows] ** 2).sum(1) / 2)
    return nn.Sequential(nn.Flatten(), linear)


def checkpoint(backbone: nn.Module, given: Statistics, classes: int = CLASSES) -> Checkpoint:
    metadata = CheckpointMetadata(
        architecture="cifar_resnet20",
        num_classes=classes,
        class_names=tuple(f"colour {label}" for label in range(classes)),
        input_shape=(3, 2, 2),
        mean=given[0],
        std=given[1],
        method="imported",
        sigma=None,
        dataset="colours",
        seed=0,
        epochs=0,
        hyperparameters={},
        parent_sha256=None,
        versions={},
        date=now(),
    )
    return Checkpoint(ImageClassifier(backbone, *given).eval(), metadata, "0" * 64, Path("imported.safetensors"))


def test_a_network_that_is_as_it_was_trained_gets_no_hint() -> None:
    found = diagnose(checkpoint(network_for(IMAGENET, CLASSES), IMAGENET), images_of(CLASSES, 600))
    assert found.accuracy > 0.9
    assert (found.order, found.normalisation, found.doubtful_structure, found.images) == (None, None, False, 600)


@pytest.mark.parametrize(("trained", "given"), [(IMAGENET, HALF), (IMAGENET, NONE), (NONE, IMAGENET), (HALF, NONE)])
def test_another_mean_and_std_is_found(trained: Statistics, given: Statistics) -> None:
    images = images_of(CLASSES, 600)
    right = diagnose(checkpoint(network_for(trained, CLASSES), trained), images)
    found = diagnose(checkpoint(network_for(trained, CLASSES), given), images)
    assert found.normalisation is not None
    assert found.normalisation.accuracy == pytest.approx(right.accuracy, abs=0.02)
    assert found.normalisation.accuracy > found.accuracy + 0.02
    assert np.abs(np.subtract((found.normalisation.mean, found.normalisation.std), trained)).max() < 0.05
    assert found.order is None


@pytest.mark.parametrize("outputs", [[3, 1, 4, 0, 5, 9, 2, 6, 8, 7], [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]])
def test_another_order_of_the_classes_is_found_and_named(outputs: list[int]) -> None:
    images = images_of(CLASSES, 600)
    found = diagnose(checkpoint(network_for(IMAGENET, CLASSES, outputs), IMAGENET), images)
    assert found.order is not None
    assert found.order.outputs == tuple(NAMES[label] for label in outputs)
    assert found.order.accuracy > 0.9 > found.accuracy
    assert found.normalisation is None
    order = order_of_outputs(found.order.outputs, NAMES)
    repaired = network_for(IMAGENET, CLASSES, [outputs[i] for i in order])
    assert diagnose(checkpoint(repaired, IMAGENET), images).accuracy > 0.9


def test_another_order_and_another_mean_are_found_together() -> None:
    outputs = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    found = diagnose(checkpoint(network_for(IMAGENET, CLASSES, outputs), HALF), images_of(CLASSES, 600))
    assert found.order is not None
    assert found.normalisation is not None
    assert found.order.outputs == tuple(NAMES[label] for label in outputs)
    assert found.normalisation.accuracy == found.order.accuracy > 0.9


@pytest.mark.parametrize("classes", [10, 300])
def test_no_order_is_seen_in_the_answers_of_a_random_network(classes: int) -> None:
    """With 300 classes and 600 images, some order of the classes fits any answers on the images that it is found on."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, classes))
    found = diagnose(checkpoint(backbone, IMAGENET, classes), images_of(classes, 600))
    assert found.accuracy < 0.3
    assert found.order is None
    assert found.doubtful_structure


def test_a_network_that_answers_nan_is_refused() -> None:
    backbone = network_for(IMAGENET, CLASSES)
    next(backbone.parameters()).data[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="expected finite logits, but it answers test images with NaN"):
        diagnose(checkpoint(backbone, IMAGENET), images_of(CLASSES, 100))


def test_images_of_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"colours: expected test images of the network's 10 classes"):
        diagnose(checkpoint(network_for(IMAGENET, CLASSES), IMAGENET), images_of(9, 100))
