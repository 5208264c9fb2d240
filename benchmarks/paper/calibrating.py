"""From a checkpoint to a served model of the comparison: exported, calibrated by itself, and evaluated."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from heatserve.certification.calibration import CalibrationError
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.provenance import sha256_of
from heatserve.export.calibration.attempts import AttemptsError, read_attempts
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier, CertifyExecutor
from heatserve.export.calibration.held_out import HeldOut, held_out
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.exporting import export_checkpoint
from heatserve.export.images import SampledImages
from heatserve.export.repository.layout import ATTEMPTS_NAME, ModelVersion, open_model, version_dirs

CALIBRATED_ALPHA, CALIBRATED_DELTA = 0.1, 0.05
"""α and δ of the promise of each single pass, by itself: a card counts the attempts of the others against it."""
CALIBRATION_IMAGES = 400
COMPARED_N0, COMPARED_ALPHA = 100, 0.001
"""n₀ and α of Certify."""


@dataclass(frozen=True, kw_only=True)
class Calibrations:
    """Served models in a folder, all calibrated on the same images and measured on the same others.

    Args:
        dataset: see `load_data`.
        root: folder of the data set, for those that have one.
        folder: of the repository and of what Certify finds, which a later run goes on from.
        images: test images, drawn by `seed`, that the figures of a card are measured on.
        n: the n of Certify, on calibration and test images.
        seed: decides the images and the noise.
        executor: who certifies; see `Certifier`.
        progress: shows the images that Certify runs on.
    """

    dataset: str
    root: Path | None
    folder: Path
    images: int
    n: int
    seed: int = 0
    executor: CertifyExecutor | None = None
    progress: Progress = unseen
    _seen: dict[frozenset[tuple[str | None, str | None]], HeldOut] = field(default_factory=dict, repr=False)

    @property
    def repository(self) -> Path:
        """Of the served models."""
        return self.folder / "model_repository"

    @property
    def certifier(self) -> Certifier:
        """The Certify of all calibrations; that of the figures has the next seed."""
        certify = MonteCarlo(n0=COMPARED_N0, n=self.n, alpha=COMPARED_ALPHA, seed=self.seed)
        return Certifier(certify, folder=self.folder / "certificates", executor=self.executor, progress=self.progress)

    def export(self, checkpoint: Path, name: str, sigma: float | None) -> ModelVersion:
        """A network as a model that is not calibrated, in place of former ones; a 1-Lipschitz one has no σ."""
        remove_versions(self.repository / name)
        return export_checkpoint(checkpoint, repository=self.repository, name=name, sigma=sigma, progress=self.progress)

    def exported(self, checkpoint: Path, name: str, sigma: float | None) -> ModelVersion:
        """The newest version of a model, calibrated or not; exported now where there is none of this checkpoint."""
        if version_dirs(self.repository / name):
            found = open_model(self.repository, name)
            if found.card.training.get("checkpoint_sha256") == sha256_of(checkpoint):
                return found
        return self.export(checkpoint, name, sigma)

    def calibrate(self, model: ModelVersion) -> tuple[ModelVersion, str | None]:
        """The next version of an exported model, evaluated; or the same with the reason why no map can be promised.

        All systems are tested on the same images at δ, for their rows are compared; what is to be served is calibrated
        on others.
        """
        images, test = self.parts(model)
        read_attempts(self.repository)  # a damaged record is an error, and no reason
        try:
            published = calibrate_model(
                model,
                images,
                test,
                alpha=CALIBRATED_ALPHA,
                delta=CALIBRATED_DELTA,
                level=CALIBRATED_DELTA,
                certifier=self.certifier,
            )
        except (CalibrationError, AttemptsError) as error:
            return model, str(error)
        return published, None

    def parts(self, model: ModelVersion, test_images: int | None = None) -> tuple[SampledImages, SampledImages]:
        """Images that no training of the model saw, to calibrate and to measure on; None: as many as `images` says."""
        held = self._held_out(model)
        return replace(held, model=model, seen=set(held.seen)).parts(
            self.dataset,
            images=CALIBRATION_IMAGES,
            test_images=self.images if test_images is None else test_images,
            seed=self.seed,
        )

    def _held_out(self, model: ModelVersion) -> HeldOut:
        """Where images are drawn from; what trained all networks of a data set is read once."""
        trained_on = frozenset((one.dataset, one.pixels_sha256) for one in model.card.networks)
        if trained_on not in self._seen:
            self._seen[trained_on] = held_out(model, root=self.root, progress=self.progress)
        return self._seen[trained_on]


def remove_versions(model_dir: Path) -> None:
    """Remove a model that is measured anew, and keep its attempts: they have used images."""
    for path in model_dir.iterdir() if model_dir.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ATTEMPTS_NAME:
            path.unlink()
