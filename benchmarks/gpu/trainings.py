"""Trainings on a GPU in steps of minutes: ResNet-34 as in the paper's Appendix E, and a 1-Lipschitz network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from heatserve.benchmarks.gpu.machine import GpuMachine, TimeUp, kept_or, made_here, write_plain
from heatserve.benchmarks.records.gpu import GpuTraining, GpuTrainingRecord
from heatserve.certification.errors import HeatserveError
from heatserve.training.checkpoint import load_checkpoint
from heatserve.training.data.splits import ImageData, load_data
from heatserve.training.evaluate import accuracy
from heatserve.training.loop.fitting import Interrupted, Run
from heatserve.training.loop.log import read_epochs
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.loop.progress import TrainingProgress, unseen_training
from heatserve.training.methods.parameters import (
    HeatParameters,
    NoiseParameters,
    Parameters,
    SmoothAdvParameters,
    heat_preset,
)
from heatserve.training.recipes import LIPSCHITZ
from heatserve.training.train import step_path, train_baseline, train_from, train_lipschitz

_DATA = "cifar10"
PAPER_SIGMA = 0.1
PAPER_EPOCHS = 200
"""Of the baseline, of each method, and of each time step of the heat loss."""
PAPER_ARCHITECTURE = "cifar_resnet34"


def _heat_paper() -> HeatParameters:
    """Equation (15) in five time steps, each from fresh weights; its κ draws go through the network together."""
    preset = heat_preset("paper-cifar10", PAPER_SIGMA)
    return replace(preset, reinitialise=True, draws_at_once=preset.kappa)


GPU_SYSTEMS: Mapping[str, Callable[[], Parameters] | None] = MappingProxyType(
    {
        "baseline": None,
        "noise": lambda: NoiseParameters(sigma=PAPER_SIGMA),
        "smoothadv": lambda: SmoothAdvParameters(sigma=PAPER_SIGMA, epsilon=0.5, steps=4),
        "heat-paper": _heat_paper,
    }
)
"""The rows of Table 5 by name; all but the baseline start from it."""


@dataclass(frozen=True, kw_only=True)
class GpuRecipe:
    """What is trained, and where its files go.

    Args:
        folder: of checkpoints, states, logs and the record.
        root: the folder of CIFAR-10.
        architecture: of the network.
        epochs: of each training, and of each time step.
        precision: "float32" or "bfloat16".
        seed: decides the weights, the order of the images and all draws.
        progress: follows each training.
    """

    folder: Path
    root: Path
    architecture: str
    epochs: int
    precision: str = "bfloat16"
    seed: int = 0
    progress: TrainingProgress = unseen_training

    def file(self, system: str) -> Path:
        """The checkpoint of a system, named as `heatserve paper` names it."""
        suffix = f"-{PAPER_SIGMA:g}" if GPU_SYSTEMS.get(system) else ""
        return self.folder / f"{system}{suffix}.safetensors"


def train_on_gpu(system: str, recipe: GpuRecipe, machine: GpuMachine) -> GpuTrainingRecord:
    """Train a row of Table 5, the baseline first where it is not there yet; goes on where it stopped.

    Raises:
        HeatserveError: an unknown system.
        TimeUp: the time is used; the state is written, and the record says how far it came.
    """
    if system not in GPU_SYSTEMS:
        raise HeatserveError(f"system: expected one of {', '.join(GPU_SYSTEMS)}, got {system!r}")
    images = load_data(_DATA, "train", recipe.root)
    optimisation = Optimisation(epochs=recipe.epochs, batch_size=128, lr=0.1, precision=recipe.precision)
    run, baseline = _run(recipe, machine), recipe.file("baseline")
    record = _train(
        "baseline",
        recipe,
        machine,
        lambda: train_baseline(
            images, recipe.architecture, out=baseline, optimisation=optimisation, seed=recipe.seed, run=run
        ),
    )
    make = GPU_SYSTEMS[system]
    if make is None:
        return record
    parameters = make()
    return _train(
        system,
        recipe,
        machine,
        lambda: train_from(
            baseline, images, parameters, out=recipe.file(system), optimisation=optimisation, seed=recipe.seed, run=run
        ),
        trainings=parameters.trainings,
    )


def lipschitz_on_gpu(recipe: GpuRecipe, machine: GpuMachine) -> GpuTrainingRecord:
    """Train a 1-Lipschitz network by the recipe for GPUs; goes on where it stopped.

    Raises:
        TimeUp: see `train_on_gpu`.
    """
    optimisation = replace(LIPSCHITZ["gpu"][1], epochs=recipe.epochs, precision=recipe.precision)
    images = load_data(_DATA, "train", recipe.root)
    out, run = recipe.file("lipschitz"), _run(recipe, machine)
    return _train(
        "lipschitz",
        recipe,
        machine,
        lambda: train_lipschitz(
            images, recipe.architecture, out=out, optimisation=optimisation, seed=recipe.seed, run=run
        ),
    )


def _run(recipe: GpuRecipe, machine: GpuMachine) -> Run:
    return Run(device=machine.device, resume=True, progress=recipe.progress)


def _train(
    system: str, recipe: GpuRecipe, machine: GpuMachine, train: Callable[[], Path], *, trainings: int = 1
) -> GpuTrainingRecord:
    """Train until it is done or the time is used, and say in the record how far it came."""
    machine.check_time()
    if not _epochs(system, recipe, trainings):
        _noted(system, recipe, machine, done=False, trainings=trainings)  # from now on, it is known to run here
    try:
        with machine.stopping():
            train()
    except (Interrupted, TimeUp):
        _noted(system, recipe, machine, done=False, trainings=trainings)
        raise TimeUp from None
    return _noted(system, recipe, machine, done=True, trainings=trainings)


def _noted(system: str, recipe: GpuRecipe, machine: GpuMachine, *, done: bool, trainings: int) -> GpuTrainingRecord:
    out, epochs = recipe.file(system), _epochs(system, recipe, trainings)
    path = recipe.folder / "train.json"
    empty = GpuTrainingRecord(
        **vars(made_here(recipe.seed)), device=machine.device, device_name=machine.name, data=_DATA, rows=()
    )
    record = kept_or(empty, path)
    timed_here = not epochs or any(row.system == system and row.seconds is not None for row in record.rows)
    row = GpuTraining(
        system=system,
        architecture=recipe.architecture,
        file=out.name,
        epochs=recipe.epochs * trainings,
        epochs_done=len(epochs),
        seconds=sum(epoch["seconds"] for epoch in epochs) if timed_here else None,
        images_per_second=epochs[-1]["images_per_second"] if epochs and timed_here else None,
        sha256=None,
        accuracy=None,
    )
    if done:
        checkpoint = load_checkpoint(out)
        network = checkpoint.network.to(machine.device)
        row = replace(row, sha256=checkpoint.sha256, accuracy=accuracy(network, _test_images(recipe)))
    others = tuple(other for other in record.rows if other.system != system)
    record = replace(record, rows=(*others, row))
    write_plain(path, record)
    return record


def _epochs(system: str, recipe: GpuRecipe, trainings: int) -> list[dict[str, Any]]:
    """The records of the epochs that are done, of all time steps."""
    out = recipe.file(system)
    parts = [*(step_path(out, step) for step in range(1, trainings)), out]
    return [epoch for part in parts for epoch in read_epochs(part)]


def _test_images(recipe: GpuRecipe) -> ImageData:
    return load_data(_DATA, "test", recipe.root)
