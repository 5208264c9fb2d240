"""Every system of the paper on CIFAR-10, from one baseline, in the same number of epochs, held against Certify.

Resumable: trainings go on from their state, and a system whose result is written already, by the same recipe, is not
run again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import compress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from heatserve.benchmarks.results import provenance, write_results
from heatserve.certification.calibration import CalibrationError
from heatserve.certification.monte_carlo import largest_provable
from heatserve.export.calibration.calibrate import calibrate_model
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.evaluate import evaluate
from heatserve.export.calibration.report import progress_bar
from heatserve.export.calibration.sampling import sample
from heatserve.export.card import Card, MonteCarlo
from heatserve.export.exporting import export_checkpoint
from heatserve.export.repository.layout import ModelVersion, open_model
from heatserve.export.runtime.answers import model_images
from heatserve.export.runtime.served import open_served
from heatserve.training import accuracy, load_checkpoint, train_baseline, train_from
from heatserve.training.data import ImageData, load_data
from heatserve.training.loop import Optimisation, Run, training_bar
from heatserve.training.methods import (
    AverageParameters,
    HeatParameters,
    MadryParameters,
    NoiseParameters,
    Parameters,
    SmoothAdvParameters,
    heat_preset,
)

ARCHITECTURE = "cifar_resnet20"
BASELINE = Optimisation(epochs=15, batch_size=64, lr=0.05)
FINE_TUNING = Optimisation(epochs=2, batch_size=64, lr=0.05)
ALPHA, DELTA = 0.1, 0.05
CALIBRATION_IMAGES = 400
CALIBRATION = MonteCarlo(n0=100, n=500, alpha=0.001, seed=0)
"""Of the calibration images; their certificates only choose the map."""


@dataclass(frozen=True)
class System:
    """One row of the table: how a network is trained from the baseline."""

    name: str
    labels: bool
    parameters: Callable[[float], Parameters] | None
    """From σ; None is the baseline itself."""
    start: str = "baseline"
    """The system whose network it starts from."""
    optimisation: Optimisation = FINE_TUNING


_SLOW = replace(FINE_TUNING, lr=0.01)
"""The heat loss destroys the network at the learning rate of the others."""

SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        system.name: system
        for system in (
            System("baseline", True, None),
            System("noise", True, lambda sigma: NoiseParameters(sigma=sigma)),
            System("noise-label-free", False, lambda sigma: NoiseParameters(sigma=sigma, label_free=True)),
            System("smoothadv", True, lambda sigma: SmoothAdvParameters(sigma=sigma, epsilon=0.5, steps=2)),
            System("madry", True, lambda _: MadryParameters(epsilon=0.5, steps=2)),
            System(
                "madry-heat",
                False,
                lambda sigma: HeatParameters(sigma=sigma, kappa=2),
                start="madry",
                optimisation=replace(_SLOW, epochs=1),
            ),
            System("heat", False, lambda sigma: HeatParameters(sigma=sigma, kappa=2), optimisation=_SLOW),
            System(
                "heat-paper",
                False,
                lambda sigma: replace(heat_preset("paper-cifar10", sigma), time_steps=2),
                optimisation=replace(_SLOW, epochs=1),
            ),
            System("average", False, lambda sigma: AverageParameters(sigma=sigma)),
            System(
                "average-probabilities",
                False,
                lambda sigma: AverageParameters(sigma=sigma, target="probabilities", consistency=5.0),
            ),
            System(
                "average-longer",
                False,
                lambda sigma: AverageParameters(sigma=sigma, frozen_base=True),
                start="average",
                optimisation=replace(FINE_TUNING, epochs=4),
            ),
            System(
                "average-longest",
                False,
                lambda sigma: AverageParameters(sigma=sigma, frozen_base=True),
                start="average-longer",
                optimisation=replace(FINE_TUNING, epochs=8),
            ),
        )
    }
)
"""All but the baseline, `madry-heat`, which is Table 4's, `average-longer` and `average-longest` see as many epochs."""


@dataclass(frozen=True)
class Experiment:
    """Where everything is, and how much of it is measured.

    Args:
        root: folder of CIFAR-10.
        folder: of checkpoints and graphs, which a later run goes on from.
        results: JSON file that the rows are written to, each as soon as it is known.
        images: test images, drawn by `seed`, that every figure but the clean accuracy is measured on.
        n: of Certify on the test images.
        seed: decides everything.
        device: that networks are trained on.
    """

    root: Path
    folder: Path
    results: Path
    images: int = 500
    n: int = 1000
    seed: int = 0
    device: str = "cpu"

    def run(self, systems: Sequence[str], sigmas: Sequence[float], console: Console) -> list[dict[str, Any]]:
        """Train and measure the systems at each σ; the rows of the results file afterwards."""
        for sigma in sigmas:
            for name in systems:
                self._measure(SYSTEMS[name], sigma, console)
        return read_rows(self.results)

    def checkpoint(self, system: System, sigma: float) -> Path:
        """The trained network of a system, trained now as far as it is not yet, with those that it starts from."""
        if system.parameters is None:
            out = self.folder / "baseline.safetensors"
            return train_baseline(
                self._train, ARCHITECTURE, out=out, optimisation=BASELINE, seed=self.seed, run=self._run
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

    def model(self, system: System, sigma: float) -> ModelVersion:
        """The graph of a system that was measured, with its calibration."""
        return open_model(self._repository, _name(system, sigma))

    @property
    def _repository(self) -> Path:
        return self.folder / "model_repository"

    @property
    def _kept(self) -> Path:
        return self.folder / "certificates"

    def _measure(self, system: System, sigma: float, console: Console) -> None:
        """Add the row of a system, unless it is there for the same network and as many images and votes."""
        console.print(f"[bold]{system.name}[/], σ = {sigma:g}", highlight=False)
        path = self.checkpoint(system, sigma)
        key = {
            "system": system.name,
            "sigma": sigma,
            "images": self.images,
            "n": self.n,
            "checkpoint": load_checkpoint(path).sha256,
        }
        if any(key.items() <= row.items() for row in read_rows(self.results)):
            return
        card = self._certify(path, _name(system, sigma), sigma)
        assert card.evaluation is not None
        row = key | self._trained(system, sigma) | {"evaluation": card.evaluation.model_dump(mode="json")}
        row["calibration"] = card.calibration.model_dump(mode="json") if card.calibration else None
        row["provenance"] = provenance(seed=self.seed)
        kept = [other for other in read_rows(self.results) if _identity(other) != _identity(row)]
        write_results(self.results, {"rows": [*kept, row]})

    def _certify(self, checkpoint: Path, name: str, sigma: float) -> Card:
        """Export, calibrate and evaluate a network; where no map can be promised, its certified radii are 0."""
        shutil.rmtree(self._repository / name, ignore_errors=True)
        model = export_checkpoint(checkpoint, repository=self._repository, name=name, sigma=sigma)
        test = sample("cifar10", "test", root=self.root, count=self.images, seed=self.seed)
        certify = MonteCarlo(n0=100, n=self.n, alpha=0.001, seed=self.seed)
        certifier = Certifier(CALIBRATION, folder=self._kept, progress=progress_bar)
        try:
            return calibrate_model(
                model,
                sample("cifar10", "calibration", root=self.root, count=CALIBRATION_IMAGES, seed=self.seed),
                test,
                alpha=ALPHA,
                delta=DELTA,
                certifier=certifier,
                test_monte_carlo=certify,
            ).card
        except CalibrationError:
            found = evaluate(
                model,
                open_served(model),
                model_images(model, test),
                delta=DELTA,
                certifier=certifier.running(certify),
            )
            return model.card.model_copy(update={"evaluation": found})

    def _trained(self, system: System, sigma: float) -> dict[str, Any]:
        """What the training since the baseline was and took, and the accuracy of one pass on all clean test images."""
        checkpoint = load_checkpoint(self.checkpoint(system, sigma))
        parts = [part for stage in _stages(system) for part in _parts(self.checkpoint(stage, sigma))]
        logged = [metrics for part in parts for metrics in _epochs(part)]
        return {
            "labels": system.labels,
            "method": checkpoint.metadata.method,
            "start": None if system.parameters is None else system.start,
            "hyperparameters": checkpoint.metadata.hyperparameters,
            "epochs": sum(load_checkpoint(part).metadata.epochs for part in parts),
            "training_seconds": round(sum(metrics["seconds"] for metrics in logged), 1) if logged else None,
            "clean_accuracy": accuracy(checkpoint.network, _load("test", self.root)),
        }


def _stages(system: System) -> list[System]:
    """The trainings that lead to a system after the baseline, which is a stage of its own row only."""
    if system.parameters is None or system.start == "baseline":
        return [system]
    return [*_stages(SYSTEMS[system.start]), system]


def read_rows(results: Path) -> list[dict[str, Any]]:
    """The rows of a results file, none where there is no file yet."""
    rows: list[dict[str, Any]] = json.loads(results.read_text())["rows"] if results.is_file() else []
    return rows


def results_table(rows: Sequence[Mapping[str, Any]], sigma: float) -> Table:
    """What the rows say, in percent, for one σ."""
    table = Table(title=f"CIFAR-10, {ARCHITECTURE}, σ = {sigma:g}", title_justify="left")
    headings, *lines = _lines(rows, sigma)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for line in lines:
        table.add_row(*line)
    return table


def markdown_table(rows: Sequence[Mapping[str, Any]], sigma: float) -> str:
    """The same table for the README."""
    headings, *lines = _lines(rows, sigma)
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _lines(rows: Sequence[Mapping[str, Any]], sigma: float) -> list[list[str]]:
    """The headings, then each row."""
    chosen = ordered(rows, sigma)
    shown = shown_radii(chosen)
    cells = [list(_columns(row, shown)) for row in chosen]
    return [[heading for heading, _ in cells[0]], *([cell for _, cell in row] for row in cells)]


def shown_radii(rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """At which radii Certify or the single pass certifies any image of any row: overclaims are never hidden."""
    found = [row["evaluation"]["certified_accuracy"] for row in rows]
    shown: list[bool] = np.any([shares[way] for shares in found for way in ("monte_carlo", "single_pass")], 0).tolist()
    return shown


def _columns(row: Mapping[str, Any], shown: Sequence[bool]) -> Iterator[tuple[str, str]]:
    found = row["evaluation"]
    accuracies = found["certified_accuracy"]
    yield "system", row["system"] + (f" (n = {row['n']:,})" if row["n"] != Experiment.n else "")
    yield "labels", "yes" if row["labels"] else "no"
    yield "epochs", str(row["epochs"])
    yield "minutes", f"{row['training_seconds'] / 60:.0f}" if row["training_seconds"] else "–"
    yield "clean", _percent(row["clean_accuracy"])
    yield "smoothed", _percent(found["smoothed_accuracy"])
    certify = found["monte_carlo"]
    provable = row["sigma"] * largest_provable(n=certify["n"], alpha=certify["alpha"])
    for radius, share in compress(zip(accuracies["radii"], accuracies["monte_carlo"], strict=True), shown):
        yield f"Certify {radius:g}", _percent(share) if radius <= provable else "–"  # too few votes for any network
    yield "agree", _percent(found["agreement"])
    for radius, share in compress(zip(accuracies["radii"], accuracies["single_pass"], strict=True), shown):
        yield f"pass {radius:g}", _percent(share)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def ordered(rows: Sequence[Mapping[str, Any]], sigma: float) -> list[Mapping[str, Any]]:
    """The rows of one σ, as `SYSTEMS` names them."""
    names = list(SYSTEMS)
    return sorted((r for r in rows if r["sigma"] == sigma), key=lambda r: (names.index(r["system"]), r["n"]))


def _name(system: System, sigma: float) -> str:
    return f"{system.name}-{sigma:g}"


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["system"], row["sigma"], row["n"]


def _parts(checkpoint: Path) -> list[Path]:
    """A checkpoint after those of the time steps before it."""
    return [*sorted(checkpoint.parent.glob(f"{checkpoint.stem}.step*{checkpoint.suffix}")), checkpoint]


def _epochs(checkpoint: Path) -> list[dict[str, Any]]:
    log = checkpoint.with_suffix(".jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return [record for record in records if record["kind"] == "epoch"]


@cache
def _load(split: str, root: Path) -> ImageData:
    return load_data("cifar10", split, root)
