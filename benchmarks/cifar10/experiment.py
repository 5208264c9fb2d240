"""Every system of the paper on CIFAR-10, from one baseline, in the same number of epochs, compared with Certify.

Resumable: trainings go on from their state, and a system whose result is written already, by the same recipe, is not
run again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from heatserve.benchmarks.cifar10.systems import BASELINE, SYSTEMS, System
from heatserve.benchmarks.records.cifar10 import ARCHITECTURE, Cifar10Record, Cifar10Row
from heatserve.benchmarks.records.record import made_now, read_record, write_record
from heatserve.certification.calibration import CalibrationError
from heatserve.certification.errors import HeatserveError
from heatserve.certification.progress import Progress, unseen
from heatserve.export.calibration.attempts import read_attempts
from heatserve.export.calibration.calibrate import calibrate_model, figures_certifier
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.evaluate import evaluate
from heatserve.export.calibration.held_out import held_out
from heatserve.export.calibration.other_inputs import OTHER_IMAGES
from heatserve.export.card import Card
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.exporting import export_checkpoint
from heatserve.export.images import SampledImages
from heatserve.export.repository.layout import ATTEMPTS_NAME, ModelVersion, carry_attempts
from heatserve.export.runtime.answers import model_images
from heatserve.export.runtime.served import open_served
from heatserve.training import accuracy, load_checkpoint, train_baseline, train_from
from heatserve.training.architectures import choose_architecture
from heatserve.training.data import ImageData, load_data
from heatserve.training.loop import Run, training_bar

CALIBRATED_ALPHA, CALIBRATED_DELTA = 0.1, 0.05
"""α and δ of the promise of each single pass, by itself: a card counts the attempts of the others against it."""
CALIBRATION_IMAGES = 400


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Where everything is, and how much of it is measured.

    Args:
        root: folder of CIFAR-10.
        folder: the folder of checkpoints and graphs, which a later run goes on from.
        results: JSON file that the rows are written to, each as soon as it is known.
        architecture: the network of all systems, see `build_network`; code that it names is run.
        images: test images, drawn by `seed`, that every figure but the clean accuracy is measured on.
        n: the n of Certify, on calibration and test images.
        seed: decides everything.
        device: that networks are trained on.
        progress: shows the images that Certify runs on.
    """

    root: Path
    folder: Path
    results: Path
    architecture: str = ARCHITECTURE
    images: int = 500
    n: int = 1000
    seed: int = 0
    device: str = "cpu"
    progress: Progress = unseen

    def __post_init__(self) -> None:
        """Refuse rows and checkpoints of another network, which those of this one would replace."""
        kept = {row.architecture: self.results for row in read_rows(self.results).rows}
        baseline = self.folder / "baseline.safetensors"
        if baseline.is_file():
            kept[load_checkpoint(baseline).metadata.architecture] = baseline
        for other in kept.keys() - {self._network}:
            raise HeatserveError(
                f"{kept[other]}: expected results of {self._network}, got some of {other}, which would be replaced: "
                f"name others with --results and --folder"
            )

    @cached_property
    def _network(self) -> str:
        """The architecture as checkpoints record it."""
        return choose_architecture(self.architecture).reference

    def checkpoint(self, system: System, sigma: float) -> Path:
        """The trained network of a system, trained now as far as it is not yet, with those that it starts from."""
        if system.parameters is None:
            out = self.folder / "baseline.safetensors"
            return train_baseline(
                self._train, self.architecture, out=out, optimisation=BASELINE, seed=self.seed, run=self._run
            )
        parameters = system.parameters(sigma)
        start = self.checkpoint(SYSTEMS[system.start], sigma)
        suffix = f"-{sigma:g}" if hasattr(parameters, "sigma") else ""
        return train_from(
            start,
            self._train,
            parameters,
            out=self.folder / f"{system.name}{suffix}.safetensors",
            optimisation=system.optimisation,
            seed=self.seed,
            run=self._run,
        )

    @property
    def _run(self) -> Run:
        return Run(device=self.device, resume=True, progress=training_bar)

    @property
    def _train(self) -> ImageData:
        return _load("train", self.root)

    @property
    def _repository(self) -> Path:
        return self.folder / "model_repository"

    @property
    def _kept(self) -> Path:
        return self.folder / "certificates"

    def measure_system(self, system: System, sigma: float) -> None:
        """Train a system and add its row, unless that is there for the same network and as many images and votes."""
        path = self.checkpoint(system, sigma)
        checkpoint = load_checkpoint(path).sha256
        key = (system.name, sigma, self.images, self.n, checkpoint)
        rows = read_rows(self.results).rows
        if any((row.system, row.sigma, row.images, row.n, row.checkpoint) == key for row in rows):
            return
        card = self._certify(path, _name(system, sigma), sigma)
        assert card.evaluation is not None
        row = Cifar10Row(
            architecture=self._network,
            system=system.name,
            sigma=sigma,
            images=self.images,
            n=self.n,
            checkpoint=checkpoint,
            **vars(self._trained(system, sigma)),
            evaluation=card.evaluation,
            calibration=card.calibration,
            provenance=made_now(seed=self.seed),
        )
        others = (other for other in rows if _identity(other) != _identity(row))
        write_record(self.results, Cifar10Record(rows=(*others, row)))

    def _certify(self, checkpoint: Path, name: str, sigma: float) -> Card:
        """Export, calibrate and evaluate a network; where no map can be promised, its certified radii are 0.

        All systems are tested on the same images at δ, for their rows are compared; `publish` calibrates the one that
        is chosen on others.
        """
        _remove_versions(self._repository / name)
        model = export_checkpoint(checkpoint, repository=self._repository, name=name, sigma=sigma)
        images, test = self._parts(model)
        try:
            return calibrate_model(
                model,
                images,
                test,
                alpha=CALIBRATED_ALPHA,
                delta=CALIBRATED_DELTA,
                level=CALIBRATED_DELTA,
                certifier=self._certifier,
            ).card
        except CalibrationError:
            found = evaluate(
                model,
                open_served(model),
                model_images(model, test),
                delta=CALIBRATED_DELTA,
                certifier=figures_certifier(self._certifier),
            )
            return model.card.model_copy(update={"evaluation": found})

    @property
    def _certifier(self) -> Certifier:
        certify = MonteCarlo(n0=100, n=self.n, alpha=0.001, seed=self.seed)
        return Certifier(certify, folder=self._kept, progress=self.progress)

    def _parts(self, model: ModelVersion, skip: int = 0, test_skip: int = 0) -> tuple[SampledImages, SampledImages]:
        """Images that no training of the model saw, to calibrate and to measure on."""
        return held_out(model, root=self.root, progress=self.progress).parts(
            "cifar10",
            images=CALIBRATION_IMAGES,
            test_images=self.images,
            seed=self.seed,
            skip=skip,
            test_skip=test_skip,
        )

    def publish(self, system: System, sigma: float, *, repository: Path, name: str) -> ModelVersion:
        """Export a system to a repository, and calibrate it there on images that chose no system.

        They come after all that an attempt of the experiment used. What it used goes with the model, so that a later
        audit or calibration there knows of it.

        Raises:
            CalibrationError: no map can be promised.
            HeatserveError: no such images are left.
        """
        model = export_checkpoint(self.checkpoint(system, sigma), repository=repository, name=name, sigma=sigma)
        for folder in sorted(self._repository.iterdir()):
            carry_attempts(folder, repository, name)
        attempts = read_attempts(self._repository)
        used = {split: attempts.unused_from("cifar10", split, self.seed) for split in ("calibration", "test")}
        return calibrate_model(
            model,
            *self._parts(model, max(CALIBRATION_IMAGES, used["calibration"]), max(self.images, used["test"])),
            alpha=CALIBRATED_ALPHA,
            delta=CALIBRATED_DELTA,
            certifier=self._certifier,
            other_images=OTHER_IMAGES,
        )

    def _trained(self, system: System, sigma: float) -> _Trained:
        """What the training since the baseline was and took, and the accuracy of one pass on all clean test images."""
        checkpoint = load_checkpoint(self.checkpoint(system, sigma))
        parts = [part for stage in _stages(system) for part in _parts(self.checkpoint(stage, sigma))]
        seconds = [value for part in parts for value in _epoch_seconds(part)]
        return _Trained(
            labels=system.labels,
            method=checkpoint.metadata.method,
            start=None if system.parameters is None else system.start,
            hyperparameters=checkpoint.metadata.hyperparameters,
            epochs=sum(load_checkpoint(part).metadata.epochs for part in parts),
            training_seconds=round(sum(seconds), 1) if seconds else None,
            clean_accuracy=accuracy(checkpoint.network, _load("test", self.root)),
        )


@dataclass(frozen=True)
class _Trained:
    """The fields of `Cifar10Row` about a training."""

    labels: bool
    method: str
    start: str | None
    hyperparameters: Mapping[str, str | int | float | bool | None]
    epochs: int
    training_seconds: float | None
    clean_accuracy: float


def _remove_versions(model_dir: Path) -> None:
    """Remove a model that is measured anew, and keep its attempts: they have used images."""
    for path in model_dir.iterdir() if model_dir.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ATTEMPTS_NAME:
            path.unlink()


def _stages(system: System) -> list[System]:
    """The trainings that lead to a system after the baseline, which is a stage of its own row only."""
    if system.parameters is None or system.start == "baseline":
        return [system]
    return [*_stages(SYSTEMS[system.start]), system]


def read_rows(results: Path) -> Cifar10Record:
    """The rows in a results file, none where there is no file yet.

    Raises:
        RecordError: the file holds something else.
    """
    return read_record(results, Cifar10Record) if results.is_file() else Cifar10Record()


def _name(system: System, sigma: float) -> str:
    return f"{system.name}-{sigma:g}"


def _identity(row: Cifar10Row) -> tuple[str, float, int]:
    return row.system, row.sigma, row.n


def _parts(checkpoint: Path) -> list[Path]:
    """A checkpoint after those of the time steps before it."""
    return [*sorted(checkpoint.parent.glob(f"{checkpoint.stem}.step*{checkpoint.suffix}")), checkpoint]


def _epoch_seconds(checkpoint: Path) -> list[float]:
    """The seconds of each epoch, from the log beside a checkpoint; none where no log was kept."""
    log = checkpoint.with_suffix(".jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return [float(record["seconds"]) for record in records if record["kind"] == "epoch"]


@cache
def _load(split: str, root: Path) -> ImageData:
    return load_data("cifar10", split, root)
