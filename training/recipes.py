"""From a data set to a baseline checkpoint, and from any checkpoint to one that another method has trained."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heatserve.certification.files import write_atomically
from heatserve.certification.provenance import now, versions
from heatserve.training.architectures import ImageClassifier
from heatserve.training.checkpoint import (
    Checkpoint,
    CheckpointMetadata,
    base_path,
    load_base,
    load_checkpoint,
    network_of,
    save_checkpoint,
)
from heatserve.training.data.augmentation import Augmentation, Augmented
from heatserve.training.data.images import DataError, ImageShape
from heatserve.training.data.splits import ImageData
from heatserve.training.loop.fitting import EpochMetrics, Run, fit
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.methods.adversarial import AdversarialLoss
from heatserve.training.methods.average import AverageLoss, Pair
from heatserve.training.methods.cross_entropy import CrossEntropy
from heatserve.training.methods.heat import HeatLoss
from heatserve.training.methods.noise import NoiseLoss
from heatserve.training.methods.parameters import (
    AverageParameters,
    HeatParameters,
    MadryParameters,
    NoiseParameters,
    ParameterError,
    Parameters,
    SmoothAdvParameters,
    method_name,
)
from heatserve.training.methods.protocol import Method

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

AUGMENTATIONS = {
    "digits": Augmentation(padding=1),
    "cifar10": Augmentation(padding=4, flip=True),
    "imagenet": Augmentation(flip=True),
}
"""Nothing is known about what keeps the class in an image folder, so it has none."""

BASELINES = {"digits": Optimisation(epochs=20, batch_size=32, lr=0.1, cpu_threads=1)}
"""Where the 200 epochs of the paper's appendix E are not the default."""

FINE_TUNINGS = {
    ("heat", "digits"): Optimisation(epochs=1, batch_size=4, lr=0.05, weight_decay=0.0, augment=False, cpu_threads=1),
    ("heat", "cifar10"): Optimisation(epochs=2, batch_size=64, lr=0.01),
    ("heat", None): Optimisation(epochs=1, batch_size=128, lr=0.01, decay="constant", augment=False),
    ("average", "digits"): Optimisation(epochs=20, batch_size=32, lr=0.05, cpu_threads=1),
    (None, "digits"): Optimisation(epochs=10, batch_size=32, lr=0.05, cpu_threads=1),
    (None, "cifar10"): Optimisation(epochs=2, batch_size=64, lr=0.05),
    (None, None): Optimisation(epochs=1, batch_size=128, lr=0.01),
}
"""By method and data set; None: any other."""


def baseline_optimisation(dataset: str) -> Optimisation:
    """Defaults of `train_baseline`: the 200 epochs of the paper's appendix E, or some seconds for the digits."""
    return BASELINES.get(dataset, Optimisation(epochs=200, batch_size=128, lr=0.1))


def fine_tuning(method: str, dataset: str) -> Optimisation:
    """Defaults of `train_from`: for heat on any other data the paper's one epoch at a learning rate of 0.01."""
    keys = ((method, dataset), (method, None), (None, dataset), (None, None))
    return next(FINE_TUNINGS[key] for key in keys if key in FINE_TUNINGS)


def channel_statistics(input_shape: ImageShape) -> tuple[tuple[float, ...], tuple[float, ...]]:
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
    run: Run | None = None,
) -> Path:
    """Train an undefended network with cross entropy and write it to `out`, after every epoch.

    Args:
        data: a `train` split.
        architecture: one of `ARCHITECTURES`.
        out: of the checkpoint; state and log are written beside it (see `fit`).
        optimisation: by default `baseline_optimisation(data.name)`.
        seed: decides the initial weights, the order of the images and their augmentation.
        run: how it is run.

    Returns:
        `out`.
    """
    optimisation = optimisation or baseline_optimisation(data.name)
    metadata = _baseline_metadata(data, architecture, optimisation, seed)
    network = _fresh(metadata)
    return _train(network, CrossEntropy(), data, optimisation, metadata, out, run or Run())


def train_from(
    parent: Checkpoint | Path,
    data: ImageData,
    parameters: Parameters,
    *,
    out: Path,
    optimisation: Optimisation | None = None,
    seed: int = 0,
    run: Run | None = None,
) -> Path:
    """Go on from a trained network with another method, and write the result to `out`, after every epoch.

    `average` writes two networks: v to `out` and, if it trains f, f to `base_path(out)`. Heat smoothing in n_T time
    steps writes the first n_T − 1 to `step_path(out, 1)`, ….

    Args:
        parent: the network to start from; for the label-free methods, also what they learn from.
        data: a `train` split of images of the network's shape and classes.
        parameters: of the method, one of `METHODS`.
        out: of the checkpoint; state and log are written beside it (see `fit`).
        optimisation: by default `fine_tuning(method, data.name)`; `epochs` are those of one time step.
        seed: decides the order of the images and all that is drawn at random.
        run: how it is run.

    Raises:
        DataError: the data does not fit the network.
        ParameterError: a frozen base that was not trained under this σ.

    Returns:
        `out`.
    """
    parent = load_checkpoint(parent) if isinstance(parent, Path) else parent
    run = run or Run()
    _check_fits(parent, data)
    optimisation = optimisation or fine_tuning(method_name(parameters), data.name)
    steps = parameters.time_steps if isinstance(parameters, HeatParameters) else 1
    for step in range(1, steps):
        parent = load_checkpoint(_train_once(parent, data, parameters, step_path(out, step), optimisation, seed, run))
    return _train_once(parent, data, parameters, out, optimisation, seed, run)


def loss_of(parameters: Parameters, start: nn.Module) -> Method:
    """The loss that `parameters` describe, with `start` the network that training starts from, frozen, in eval mode."""
    match parameters:
        case HeatParameters():
            return HeatLoss(start, parameters)
        case NoiseParameters():
            return NoiseLoss(start, parameters)
        case AverageParameters():
            return AverageLoss(start, parameters)
        case SmoothAdvParameters(epsilon=epsilon, steps=steps, sigma=sigma, samples=samples):
            return AdversarialLoss(epsilon, steps, sigma, samples)
        case MadryParameters(epsilon=epsilon, steps=steps):
            return AdversarialLoss(epsilon, steps)


def step_path(out: Path, step: int) -> Path:
    """Where heat smoothing writes the network after a time step that is not its last."""
    return out.with_name(f"{out.stem}.step{step}{out.suffix}")


def _train_once(
    parent: Checkpoint,
    data: ImageData,
    parameters: Parameters,
    out: Path,
    optimisation: Optimisation,
    seed: int,
    run: Run,
) -> Path:
    metadata = parent.metadata.model_copy(
        update={
            "method": method_name(parameters),
            "sigma": getattr(parameters, "sigma", None),
            "dataset": data.name,
            "seed": seed,
            "hyperparameters": asdict(optimisation) | _hyperparameters(parameters),
            "parent_sha256": parent.sha256,
            "base_sha256": None,
            "versions": versions("torch", "numpy"),
        }
    )
    base = _base_of(parent, parameters) if isinstance(parameters, AverageParameters) else parent
    start = copy.deepcopy(base.network).to(run.device).eval().requires_grad_(False)
    start.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network: nn.Module = copy.deepcopy(parent.network)
    if isinstance(parameters, HeatParameters) and parameters.reinitialise:
        network = _fresh(metadata)
    if isinstance(parameters, AverageParameters):
        network = Pair(copy.deepcopy(base.network).requires_grad_(not parameters.frozen_base), network)
        if parameters.frozen_base:
            metadata = metadata.model_copy(update={"base_sha256": base.sha256})
            write_atomically(base_path(out), base.path.read_bytes())
    return _train(network, loss_of(parameters, start), data, optimisation, metadata, out, run)


def _hyperparameters(parameters: Parameters) -> dict[str, Any]:
    found = asdict(parameters)
    return found | {"coefficient": parameters.gradient_weight} if isinstance(parameters, HeatParameters) else found


def _base_of(parent: Checkpoint, parameters: AverageParameters) -> Checkpoint:
    """f as training starts: `parent`, or the frozen network that `parent` was trained to be the average of."""
    if not parameters.frozen_base:
        return parent
    base = parent if parent.metadata.base_sha256 is None else load_base(parent)
    found = base.metadata
    if (found.method, found.sigma) != ("noise", parameters.sigma):
        raise ParameterError(
            f"{base.path}: expected a base trained by noise with σ = {parameters.sigma:g}, got one trained by "
            f"{found.method} with σ = {found.sigma}"
        )
    return base


def _train(
    network: nn.Module,
    method: Method,
    data: ImageData,
    optimisation: Optimisation,
    metadata: CheckpointMetadata,
    out: Path,
    run: Run,
) -> Path:
    told_later = {"date": "", "base_sha256": None}
    recipe = metadata.model_copy(update={"epochs": optimisation.epochs, **told_later}).model_dump_json()
    if run.resume and _is_done(out, recipe):
        out.with_suffix(".state").unlink(missing_ok=True)  # left by a kill after the last checkpoint
        return out

    def save(metrics: EpochMetrics) -> None:
        _save(out, network, metadata.model_copy(update={"epochs": metrics.epoch, "date": now()}))

    if optimisation.augment:
        method = Augmented(method, AUGMENTATIONS.get(data.name, Augmentation()))
    fit(
        network.to(run.device),
        method,
        data,
        optimisation,
        seed=metadata.seed,
        on_epoch=save,
        run=run,
        out=out,
        recipe=recipe,
    )
    return out


def _is_done(out: Path, recipe: str) -> bool:
    """Whether `out` is what `recipe` leads to, apart from its date and from f, which follows from the rest."""
    if not out.is_file():
        return False
    metadata = load_checkpoint(out).metadata
    return metadata.model_copy(update={"date": "", "base_sha256": None}).model_dump_json() == recipe


def _save(out: Path, network: nn.Module, metadata: CheckpointMetadata) -> None:
    if isinstance(network, Pair):
        if not metadata.hyperparameters["frozen_base"]:
            save_checkpoint(base_path(out), _classifier(network.base), metadata.model_copy(update={"method": "noise"}))
            metadata = metadata.model_copy(update={"base_sha256": load_checkpoint(base_path(out)).sha256})
        network = network.single_pass
    save_checkpoint(out, _classifier(network), metadata)


def _classifier(network: nn.Module) -> ImageClassifier:
    assert isinstance(network, ImageClassifier)
    return network


def _fresh(metadata: CheckpointMetadata) -> ImageClassifier:
    """The network that `metadata` describes, its weights drawn from its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(metadata.seed)
        return network_of(metadata)


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
        versions=versions("torch", "numpy"),
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
