"""From a data set to a baseline checkpoint, and from any checkpoint to one that another method has trained."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from heatserve.certification.provenance import now, versions
from heatserve.training.architectures.errors import ArchitectureError
from heatserve.training.architectures.lipschitz import LipschitzNetwork
from heatserve.training.architectures.network import ImageClassifier, memory_format_of
from heatserve.training.architectures.own_code import choose_architecture
from heatserve.training.channels import channel_statistics
from heatserve.training.checkpoint import Checkpoint, CheckpointMetadata, base_path, load_checkpoint
from heatserve.training.data.errors import DataError
from heatserve.training.data.splits import ImageData
from heatserve.training.loop.fitting import Run, fit
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.loop.state import StateError, state_path
from heatserve.training.loop.trainer import EpochMetrics, TrainingError
from heatserve.training.methods.augmented import Augmented
from heatserve.training.methods.cross_entropy import CrossEntropy
from heatserve.training.methods.margin import Margin
from heatserve.training.methods.parameters import AverageParameters, Parameters
from heatserve.training.methods.protocol import Method
from heatserve.training.methods.students import OneNetwork, Student, fresh_network
from heatserve.training.named import parse_named
from heatserve.training.recipes import augmentation, baseline_optimisation, fine_tuning, lipschitz_recipe


def train_baseline(
    data: ImageData,
    architecture: str,
    *,
    out: Path,
    optimisation: Optimisation | None = None,
    seed: int = 0,
    run: Run | None = None,
) -> Path:
    """Train an undefended network with cross entropy and write it to `out`.

    Args:
        data: a `train` split.
        architecture: see `build_network`; code that it names is run.
        out: the file of the checkpoint; state and log are written beside it (see `fit`).
        optimisation: by default `baseline_optimisation(data.name)`.
        seed: decides the initial weights, the order of the images and their augmentation.
        run: how it is run.

    Returns:
        `out`.
    """
    optimisation = optimisation or baseline_optimisation(data.name)
    metadata = _baseline_metadata(data, architecture, optimisation, seed)
    network = fresh_network(metadata, seed)
    student, run = OneNetwork(network, network), run or Run()
    return _train(student, CrossEntropy(), data, optimisation=optimisation, metadata=metadata, out=out, run=run)


def train_lipschitz(
    data: ImageData,
    architecture: str,
    *,
    out: Path,
    teacher: Checkpoint | Path | None = None,
    start: Checkpoint | Path | None = None,
    epsilon: float = 36 / 255,
    temperature: float = 0.25,
    optimisation: Optimisation | None = None,
    seed: int = 0,
    run: Run | None = None,
) -> Path:
    """Train a network whose logits are 1-Lipschitz to keep a margin, and write it to `out` (see `fit`).

    Args:
        data: a `train` split.
        architecture: one that is 1-Lipschitz by construction: `lipschitz_xs`, …, or code that makes a
            `LipschitzNetwork`.
        out: the file of the checkpoint; state and log are written beside it (see `fit`).
        teacher: a network whose classes are learned, in place of the labels.
        start: a network of this architecture whose weights are gone on from; None: fresh ones.
        epsilon: ε of the margin, L2, pixels in [0,1]; see `Margin`.
        temperature: T of the loss.
        optimisation: by default that of `lipschitz_recipe(data.name, run.device)`.
        seed: decides the initial weights, the order of the images and their augmentation.
        run: how it is run.

    Raises:
        TrainingError: both `teacher` and `start`, `start` of another architecture, or `out` is one of them.
        ArchitectureError: an architecture that is not 1-Lipschitz.
        DataError: the data does not fit the teacher or the start.

    Returns:
        `out`.
    """
    run = run or Run()
    optimisation = optimisation or lipschitz_recipe(data.name, run.device)[1]
    parent = _one_of(teacher, start)
    if parent is not None:
        _check_fits(parent, data)
        _check_apart(parent, [out])
    label_free = teacher is not None
    metadata = _lipschitz_metadata(data, architecture, optimisation, seed, parent)
    metadata.hyperparameters.update(epsilon=epsilon, temperature=temperature, label_free=label_free)
    network = fresh_network(metadata, seed)
    if not isinstance(network.backbone, LipschitzNetwork):
        raise ArchitectureError(
            f"architecture: expected one that is 1-Lipschitz by construction, such as lipschitz_xs, got {architecture}"
        )
    taught_by = None
    if parent is not None and label_free:
        taught_by = copy.deepcopy(parent.network).to(run.device).requires_grad_(False)
    elif parent is not None:
        _fill_from(network, parent, metadata)
    method, student = Margin(epsilon, temperature, taught_by), OneNetwork(network, network)
    return _train(
        student, method, data, optimisation=optimisation, metadata=metadata, out=out, run=run, replayable=True
    )


def _one_of(teacher: Checkpoint | Path | None, start: Checkpoint | Path | None) -> Checkpoint | None:
    if teacher is not None and start is not None:
        raise TrainingError("teacher, start: expected one of them at most, got both")
    parent = teacher or start
    return load_checkpoint(parent) if isinstance(parent, Path) else parent


def _fill_from(network: ImageClassifier, start: Checkpoint, metadata: CheckpointMetadata) -> None:
    expected, found = metadata.architecture, start.metadata.architecture
    if found != expected:
        raise TrainingError(f"{start.path}: expected a network of the architecture {expected}, got one of {found}")
    network.backbone.load_state_dict(start.network.backbone.state_dict())


def _lipschitz_metadata(
    data: ImageData, architecture: str, optimisation: Optimisation, seed: int, parent: Checkpoint | None
) -> CheckpointMetadata:
    channels = data.input_shape[0]
    return replace(
        _baseline_metadata(data, architecture, optimisation, seed),
        method="lipschitz",
        mean=(0.5,) * channels,  # only centred: to divide by a std would make the constant larger
        std=(1.0,) * channels,
        parent_sha256=parent.sha256 if parent else None,
        ancestors=parent.lineage if parent else (),
    )


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
    """Go on from a trained network with another method, and write the result to `out`.

    `average` writes two networks: v to `out` and, if it trains f, f to `base_path(out)`. Heat smoothing in n_T time
    steps writes the first n_T − 1 to `step_path(out, 1)`, ….

    Args:
        parent: the network to start from; for the label-free methods, also what they learn from.
        data: a `train` split of images of the network's shape and classes.
        parameters: the parameters of the method, one of `METHODS`.
        out: the file of the checkpoint; state and log are written beside it (see `fit`).
        optimisation: by default `fine_tuning(method, data.name)`; `epochs` are those of one time step.
        seed: decides the order of the images and all that is drawn at random.
        run: how it is run.

    Raises:
        DataError: the data does not fit the network.
        ParameterError: a frozen base that was not trained under this σ.
        TrainingError: `out` is the network to start from.

    Returns:
        `out`.
    """
    parent = load_checkpoint(parent) if isinstance(parent, Path) else parent
    run = run or Run()
    _check_fits(parent, data)
    *earlier, last = *(step_path(out, time_step) for time_step in range(1, parameters.trainings)), out
    trains_base = isinstance(parameters, AverageParameters) and not parameters.frozen_base
    _check_apart(parent, [*earlier, last, *([base_path(out)] if trains_base else [])])
    optimisation = optimisation or fine_tuning(parameters.method, data.name)
    how: dict[str, Any] = {"optimisation": optimisation, "seed": seed, "run": run}
    begun = any(path.is_file() or state_path(path).is_file() for path in earlier[:1])
    for path in earlier:
        parent = load_checkpoint(_train_once(parent, data, parameters, out=path, **how))
        how["begun"] = begun  # what later files hold of another training is replaced then, as this one began to
    return _train_once(parent, data, parameters, out=last, **how)


def step_path(out: Path, time_step: int) -> Path:
    """Where heat smoothing in several time steps writes the network after `time_step`, one that is not the last."""
    return out.with_name(f"{out.stem}.step{time_step}{out.suffix}")


def _train_once(
    parent: Checkpoint,
    data: ImageData,
    parameters: Parameters,
    *,
    out: Path,
    optimisation: Optimisation,
    seed: int,
    run: Run,
    begun: bool = False,
) -> Path:
    metadata = replace(
        parent.metadata,
        method=parameters.method,
        sigma=parameters.smoothed_for,
        dataset=data.name,
        pixels_sha256=data.pixels_sha256,
        seed=seed,
        hyperparameters=asdict(optimisation) | parameters.hyperparameters,
        parent_sha256=parent.sha256,
        base_sha256=None,
        ancestors=parent.lineage,
        versions=versions("torch", "numpy"),
    )
    student = parameters.student(parent, seed)
    start = copy.deepcopy(student.start).to(run.device).eval().requires_grad_(False)
    start.to(memory_format=memory_format_of(start))  # type: ignore[call-overload]
    method = parameters.loss(start)
    return _train(student, method, data, optimisation=optimisation, metadata=metadata, out=out, run=run, begun=begun)


def _train(
    student: Student,
    method: Method,
    data: ImageData,
    *,
    optimisation: Optimisation,
    metadata: CheckpointMetadata,
    out: Path,
    run: Run,
    replayable: bool = False,
    begun: bool = False,
) -> Path:
    recipe = _recipe(replace(metadata, epochs=optimisation.epochs))
    if run.resume and _is_done(out, recipe):
        state_path(out).unlink(missing_ok=True)  # left by a kill after the last checkpoint
        return out
    if run.resume and not begun and not state_path(out).is_file():
        _refuse_another(out, recipe, optimisation.epochs)

    def save(metrics: EpochMetrics) -> None:
        student.save(out, replace(metadata, epochs=metrics.epoch, date=now()))

    if optimisation.augment:
        method = Augmented(method, augmentation(metadata.method, parse_named(data.name).name))
    fit(
        student.network.to(run.device),
        method,
        data,
        optimisation,
        seed=metadata.seed,
        save=save,
        run=run,
        out=out,
        recipe=recipe,
        replayable=replayable,
    )
    return out


def _is_done(out: Path, recipe: str) -> bool:
    """Whether `out` is the checkpoint that a training by `recipe` ends with."""
    return out.is_file() and _recipe(load_checkpoint(out).metadata) == recipe


def _refuse_another(out: Path, recipe: str, epochs: int) -> None:
    """Leave alone what another training ended with, perhaps in hours, unless it is to begin afresh."""
    if not out.is_file():
        return
    found = _recipe(replace(load_checkpoint(out).metadata, epochs=epochs))
    if found != recipe:  # else it is of this one, killed before its first state
        # Those of the hyperparameters last: the metadata's own epochs were made alike above.
        here, there = (fields | fields.pop("hyperparameters") for fields in map(json.loads, (recipe, found)))
        others = ", ".join(name for name in {**here, **there} if here.get(name) != there.get(name))
        raise StateError(
            f"{out}: expected nothing, or what this training ends with, found a network of another one, which differs "
            f"in {others}; give its options, another --out, or remove it"
        )


def _recipe(metadata: CheckpointMetadata) -> str:
    """What decides a training, as text: the metadata without its date, f and the ancestors; these follow from it."""
    return replace(metadata, date="", base_sha256=None).to_json(without=("ancestors",))


def _baseline_metadata(data: ImageData, architecture: str, optimisation: Optimisation, seed: int) -> CheckpointMetadata:
    mean, std = channel_statistics(data.input_shape)
    chosen = choose_architecture(architecture)
    return CheckpointMetadata(
        architecture=chosen.reference,
        code_sha256=chosen.code_sha256,
        num_classes=len(data.class_names),
        class_names=data.class_names,
        input_shape=data.input_shape,
        mean=mean,
        std=std,
        method="baseline",
        sigma=None,
        dataset=data.name,
        pixels_sha256=data.pixels_sha256,
        seed=seed,
        epochs=0,
        hyperparameters=asdict(optimisation),
        parent_sha256=None,
        ancestors=(),
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


def _check_apart(parent: Checkpoint, written: Sequence[Path]) -> None:
    """A training that replaces what it began with could not be resumed, and nothing would be left to compare with."""
    if parent.path.resolve() in {path.resolve() for path in written}:
        raise TrainingError(f"out: expected another file than {parent.path}, which the training starts from")
