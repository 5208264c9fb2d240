"""From a data set to a baseline checkpoint, and from any checkpoint to a heat-smoothed one."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import torch

from training.architectures import Classifier, Shape
from training.augmentation import Augmentation, Augmented
from training.checkpoint import (
    Checkpoint,
    CheckpointMetadata,
    current_versions,
    load_checkpoint,
    network_of,
    now,
    save_checkpoint,
)
from training.data import ImageData
from training.heat import HeatLoss, HeatParameters
from training.images import DataError
from training.loop import EpochMetrics, Optimisation, fit
from training.method import CrossEntropy, Method

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

AUGMENTATIONS = {
    "digits": Augmentation(padding=1),
    "cifar10": Augmentation(padding=4, flip=True),
    "imagenet": Augmentation(flip=True),
}
"""Of the baselines. Nothing is known about what keeps the class in an image folder, so it has none."""

BASELINES = {"digits": Optimisation(epochs=20, batch_size=32, lr=0.1, cpu_threads=1)}
HEATS = {"digits": Optimisation(epochs=1, batch_size=4, lr=0.05, weight_decay=0.0, cpu_threads=1)}


def baseline_optimisation(dataset: str) -> Optimisation:
    """Defaults of `train_baseline`: the 200 epochs of the paper's appendix E, or some seconds for the digits."""
    return BASELINES.get(dataset, Optimisation(epochs=200, batch_size=128, lr=0.1))


def heat_optimisation(dataset: str) -> Optimisation:
    """Defaults of `train_heat`: the paper's one epoch at a constant learning rate of 0.01; tuned for the digits."""
    return HEATS.get(dataset, Optimisation(epochs=1, batch_size=128, lr=0.01, decay="constant"))


def channel_statistics(input_shape: Shape) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std that new networks normalise by: ImageNet's for colour images, ½ and ½ for others."""
    if input_shape[0] == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (0.5,) * input_shape[0], (0.5,) * input_shape[0]


def train_baseline(
    data: ImageData,
    architecture: str,
    *,
    out: Path,
    optimisation: Optimisation | None = None,
    seed: int = 0,
    device: str = "cpu",
    show_progress: bool = True,
) -> Path:
    """Train an undefended network with cross entropy and write it to `out`, after every epoch.

    Args:
        data: a `train` split.
        architecture: one of `ARCHITECTURES`.
        optimisation: by default `baseline_optimisation(data.name)`.
        seed: decides the initial weights, the order of the images and their augmentation.
        device: "cpu", "cuda", ….

    Returns:
        `out`.
    """
    optimisation = optimisation or baseline_optimisation(data.name)
    metadata = _baseline_metadata(data, architecture, optimisation, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = network_of(metadata).to(device)
    method = Augmented(CrossEntropy(), AUGMENTATIONS.get(data.name, Augmentation()))
    return _train(network, method, data, optimisation, metadata, out, show_progress)


def train_heat(
    checkpoint: Checkpoint | Path,
    data: ImageData,
    heat: HeatParameters,
    *,
    out: Path,
    optimisation: Optimisation | None = None,
    seed: int = 0,
    device: str = "cpu",
    show_progress: bool = True,
) -> Path:
    """Fine-tune a network, without labels, into its own Gaussian average (equation (10)); write it to `out`.

    Args:
        checkpoint: the network f to start from.
        data: a `train` split of images of the network's shape and classes.
        heat: σ and the other parameters of the loss.
        optimisation: by default `heat_optimisation(data.name)`.
        seed: decides the order of the images, the noise and the projections.
        device: "cpu", "cuda", ….

    Returns:
        `out`.
    """
    parent = load_checkpoint(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    _check_fits(parent, data)
    optimisation = optimisation or heat_optimisation(data.name)
    metadata = parent.metadata.model_copy(
        update={
            "method": "heat",
            "sigma": heat.sigma,
            "dataset": data.name,
            "seed": seed,
            "hyperparameters": asdict(optimisation) | asdict(heat) | {"coefficient": heat.gradient_weight},
            "parent_sha256": parent.sha256,
            "versions": current_versions(),
        }
    )
    base = copy.deepcopy(parent.network).to(device).eval().requires_grad_(False)
    network = copy.deepcopy(parent.network).to(device)
    return _train(network, HeatLoss(base, heat), data, optimisation, metadata, out, show_progress)


def _train(
    network: Classifier,
    method: Method,
    data: ImageData,
    optimisation: Optimisation,
    metadata: CheckpointMetadata,
    out: Path,
    show_progress: bool,
) -> Path:
    def save(metrics: EpochMetrics) -> None:
        save_checkpoint(out, network, metadata.model_copy(update={"epochs": metrics.epoch, "date": now()}))

    fit(network, method, data, optimisation, seed=metadata.seed, on_epoch=save, show_progress=show_progress)
    return out


def _baseline_metadata(data: ImageData, architecture: str, optimisation: Optimisation, seed: int) -> CheckpointMetadata:
    mean, std = channel_statistics(data.input_shape)
    return CheckpointMetadata(
        architecture=architecture,
        num_classes=len(data.class_names),
        class_names=data.class_names,
        input_shape=data.input_shape,
        mean=mean,
        std=std,
        method="baseline",
        sigma=None,
        dataset=data.name,
        seed=seed,
        epochs=0,
        hyperparameters=asdict(optimisation),
        parent_sha256=None,
        versions=current_versions(),
        date=now(),
    )


def _check_fits(parent: Checkpoint, data: ImageData) -> None:
    expected, found = parent.metadata, data
    if expected.input_shape != found.input_shape:
        raise DataError(
            f"{parent.path}: expects images {expected.input_shape}, but {data.name} has {found.input_shape}"
        )
    if expected.class_names != found.class_names:
        raise DataError(f"{parent.path}: its {expected.num_classes} classes are not those of {data.name}")
