"""Every system of the paper on CIFAR-10, from one baseline, in the same number of epochs, compared with Certify.

Resumable: trainings go on from their state, and a system whose result is written already, by the same recipe, is not
run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from heatserve.benchmarks.cifar10.systems import SYSTEMS
from heatserve.benchmarks.paper.calibrating import CALIBRATED_ALPHA, CALIBRATED_DELTA, CALIBRATION_IMAGES, Calibrations
from heatserve.benchmarks.paper.training import System, Trainings
from heatserve.benchmarks.records.cifar10 import ARCHITECTURE, Cifar10Record, Cifar10Row
from heatserve.benchmarks.records.record import made_now, read_record, write_record
from heatserve.certification.errors import HeatserveError
from heatserve.certification.progress import Progress, unseen
from heatserve.export.calibration.attempts import read_attempts
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.other_inputs import OTHER_IMAGES
from heatserve.export.card import Card
from heatserve.export.exporting import export_checkpoint
from heatserve.export.repository.layout import ModelVersion, carry_attempts
from heatserve.training import load_checkpoint
from heatserve.training.loop import training_bar

DATASET = "cifar10"


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
        """Refuse rows of another network, which those of this one would replace; `Trainings` refuses checkpoints."""
        for other in {row.architecture for row in read_rows(self.results).rows} - {self.trainings.network}:
            raise HeatserveError(
                f"{self.results}: expected results of {self.trainings.network}, got some of {other}, which would be "
                f"replaced: name others with --results and --folder"
            )

    @cached_property
    def trainings(self) -> Trainings:
        """The systems, trained as far as they are asked for."""
        return Trainings(
            dataset=DATASET,
            root=self.root,
            folder=self.folder,
            architecture=self.architecture,
            systems=SYSTEMS,
            seed=self.seed,
            device=self.device,
            progress=training_bar,
        )

    @cached_property
    def _calibrations(self) -> Calibrations:
        return Calibrations(
            dataset=DATASET,
            root=self.root,
            folder=self.folder,
            images=self.images,
            n=self.n,
            seed=self.seed,
            progress=self.progress,
        )

    def checkpoint(self, system: System, sigma: float) -> Path:
        """The trained network of a system, trained now as far as it is not yet, with those that it starts from."""
        return self.trainings.checkpoint(system, sigma)

    def measure_system(self, system: System, sigma: float) -> None:
        """Train a system and add its row, unless that is there for the same network and as many images and votes."""
        path = self.checkpoint(system, sigma)
        checkpoint = load_checkpoint(path).sha256
        key = (system.name, sigma, self.images, self.n, checkpoint)
        rows = read_rows(self.results).rows
        if any((row.system, row.sigma, row.images, row.n, row.checkpoint) == key for row in rows):
            return
        card = self._certify(path, f"{system.name}-{sigma:g}", sigma)
        assert card.evaluation is not None
        trained = self.trainings.trained(system, sigma)
        row = Cifar10Row(
            architecture=self.trainings.network,
            system=system.name,
            sigma=sigma,
            images=self.images,
            n=self.n,
            checkpoint=checkpoint,
            labels=trained.labels,
            method=trained.method,
            start=trained.start,
            hyperparameters=trained.hyperparameters,
            epochs=trained.epochs,
            training_seconds=trained.seconds,
            clean_accuracy=self.trainings.clean_accuracy(system, sigma),
            evaluation=card.evaluation,
            calibration=card.calibration,
            provenance=made_now(seed=self.seed),
        )
        others = (other for other in rows if _identity(other) != _identity(row))
        write_record(self.results, Cifar10Record(rows=(*others, row)))

    def _certify(self, checkpoint: Path, name: str, sigma: float) -> Card:
        """Export, calibrate and evaluate a network; where no map can be promised, its certified radii are 0."""
        model, refused = self._calibrations.calibrate(self._calibrations.export(checkpoint, name, sigma))
        if refused is None:
            return model.card
        return model.card.model_copy(update={"evaluation": self._calibrations.figures(model)})

    def publish(self, system: System, sigma: float, *, repository: Path, name: str) -> ModelVersion:
        """Export a system to a repository, and calibrate it there on images that chose no system.

        They come after all that an attempt of the experiment used. What it used goes with the model, so that a later
        audit or calibration there knows of it.

        Raises:
            CalibrationError: no map can be promised.
            HeatserveError: no such images are left.
        """
        calibrations = self._calibrations
        model = export_checkpoint(self.checkpoint(system, sigma), repository=repository, name=name, sigma=sigma)
        for folder in sorted(calibrations.repository.iterdir()):
            carry_attempts(folder, repository, name)
        attempts = read_attempts(calibrations.repository)
        used = {split: attempts.unused_from(DATASET, split, self.seed) for split in ("calibration", "test")}
        skipped = (max(CALIBRATION_IMAGES, used["calibration"]), max(self.images, used["test"]))
        return calibrate_model(
            model,
            *calibrations.parts(model, *skipped),
            alpha=CALIBRATED_ALPHA,
            delta=CALIBRATED_DELTA,
            certifier=calibrations.certifier,
            other_images=OTHER_IMAGES,
        )


def read_rows(results: Path) -> Cifar10Record:
    """The rows in a results file, none where there is no file yet.

    Raises:
        RecordError: the file holds something else.
    """
    return read_record(results, Cifar10Record) if results.is_file() else Cifar10Record()


def _identity(row: Cifar10Row) -> tuple[str, float, int]:
    return row.system, row.sigma, row.n
