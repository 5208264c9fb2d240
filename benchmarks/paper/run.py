"""The paper's evaluation on one data set: each row is measured once, and written as soon as it is known.

Only what attacks imports `attacking`, whose packages other parts do not need.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heatserve.benchmarks.paper.calibrating import (
    CALIBRATED_ALPHA,
    CALIBRATED_DELTA,
    CALIBRATION_IMAGES,
    Calibrations,
)
from heatserve.benchmarks.paper.certifying import noisy_passes, pass_times, single_passes
from heatserve.benchmarks.paper.passes import PassKeeper
from heatserve.benchmarks.paper.recipes import Recipe, place_of
from heatserve.benchmarks.paper.training import System, Trainings
from heatserve.benchmarks.records.paper import (
    ATTACKS_FILE,
    SYSTEMS_FILE,
    AttackRow,
    AttacksRecord,
    ConfirmedRadius,
    DistanceSettings,
    NoisyPasses,
    SystemRow,
    SystemSettings,
    SystemsRecord,
)
from heatserve.benchmarks.records.record import made_now, read_record, write_record
from heatserve.certification.errors import HeatserveError
from heatserve.certification.progress import Progress, unseen
from heatserve.export.calibration.calibrate import figures_certifier
from heatserve.export.card import BASE_NAME
from heatserve.export.runtime.answers import answers, model_images
from heatserve.export.runtime.served import open_served
from heatserve.export.runtime.session import classifier, open_session
from heatserve.training import load_checkpoint

if TYPE_CHECKING:
    from heatserve.benchmarks.paper.attacking import DistanceAttack, DistanceKeeper

CONFIRM_LEVEL = 1e-6
"""α of confirm, for each image and radius."""
ATTACK_LIMIT, ATTACK_STEPS = 4.0, 20
"""ε and steps of PGD and DDN, as in the paper."""
ATTACK_VOTES = 500
"""Noisy passes that decide whether an attack on a stochastic model succeeded."""
PAPER_ATTACKS, FURTHER_ATTACKS = ("PGD", "DDN"), ("AutoAttack",)


@dataclass(frozen=True, kw_only=True)
class PaperRun:
    """Where everything is, and how much of it is measured.

    Args:
        trainings: of the systems, in the folder that a later run goes on from.
        recipe: of the data set.
        results: folder of the JSON files.
        images: test images of single passes; None: all.
        certify_images: the first of them, about which noisy passes are made; at most all.
        attack_images: the first of them, that stochastic models are attacked at; deterministic ones at as many as the
            recipe says.
        autoattack_images: the first of them, that deterministic models are attacked at by AutoAttack.
        n: the n of Certify.
        top_k: k of answers and attacks.
        progress: shows the images.
    """

    trainings: Trainings
    recipe: Recipe
    results: Path
    images: int | None = None
    certify_images: int = 2000
    attack_images: int = 300
    autoattack_images: int = 1000
    n: int = 1000
    top_k: int = 1
    progress: Progress = unseen

    def __post_init__(self) -> None:
        """Refuse what no classes can answer, and results of other networks or data, which these would replace."""
        classes = len(self.trainings.test.class_names)
        if not 1 <= self.top_k < classes:
            raise HeatserveError(f"top-k: expected 1 to {classes - 1} for {classes} classes, got {self.top_k}")
        self.check(self.systems, self.results / SYSTEMS_FILE)
        self.check(self.attacks, self.results / ATTACKS_FILE)

    def check(self, record: SystemsRecord | AttacksRecord, path: Path) -> None:
        """Refuse a record of another data set or network.

        Raises:
            HeatserveError: names the file.
        """
        usual = [row.architecture for row in record.rows if not self._is_lipschitz(row.system)]
        for here, there in (
            (self.trainings.dataset, record.dataset),
            *((self.trainings.network, one) for one in dict.fromkeys(usual)),
        ):
            if here != there:
                raise HeatserveError(
                    f"{path}: expected results of {here}, got some of {there}, which would be replaced: name others "
                    "with --results and --folder"
                )

    @property
    def systems(self) -> SystemsRecord:
        """The rows that are written already.

        Raises:
            RecordError: the file holds something else.
        """
        path = self.results / SYSTEMS_FILE
        return read_record(path, SystemsRecord) if path.is_file() else SystemsRecord(dataset=self.trainings.dataset)

    @property
    def attacks(self) -> AttacksRecord:
        """The attacks that are written already.

        Raises:
            RecordError: the file holds something else.
        """
        path = self.results / ATTACKS_FILE
        return read_record(path, AttacksRecord) if path.is_file() else AttacksRecord(dataset=self.trainings.dataset)

    @cached_property
    def settings(self) -> SystemSettings:
        """What decides a row besides the networks."""
        return SystemSettings(
            images=self.images,
            certify_images=self.certify_images,
            monte_carlo=figures_certifier(self._calibrations.certifier).monte_carlo,
            top_k=self.top_k,
            calibration_images=CALIBRATION_IMAGES,
            calibration_alpha=CALIBRATED_ALPHA,
            calibration_delta=CALIBRATED_DELTA,
            confirm_alpha=CONFIRM_LEVEL,
        )

    @cached_property
    def _keeper(self) -> PassKeeper:
        return PassKeeper(self.trainings.folder / "passes")

    @cached_property
    def _calibrations(self) -> Calibrations:
        here = self.trainings
        return Calibrations(
            dataset=here.dataset,
            root=here.root,
            folder=here.folder,
            images=self.certify_images,
            n=self.n,
            seed=here.seed,
            executor=self._keeper,
            progress=self.progress,
        )

    def certify(self, system: System, sigma: float) -> None:
        """Add the row of a trained system, unless it is there for the same networks and settings."""
        checkpoint = load_checkpoint(self._trained(system, sigma)).sha256
        at = None if system.lipschitz else sigma
        record = self.systems
        key = (system.name, at, checkpoint, self.settings)
        if any((row.system, row.sigma, row.trained.checkpoint, row.settings) == key for row in record.rows):
            return
        row = self._row(system, sigma)
        others = (other for other in self.systems.rows if (other.system, other.sigma) != (row.system, row.sigma))
        rows = sorted((*others, row), key=lambda one: (one.sigma or 0.0, place_of(one.system)))
        write_record(self.results / SYSTEMS_FILE, replace(record, rows=tuple(rows)), in_lines=True)

    def _trained(self, system: System, sigma: float) -> Path:
        path = self.trainings.path(system, sigma)
        if not path.is_file():
            raise HeatserveError(f"{path}: expected the trained network of {system.name}, found none; add --part train")
        metadata = load_checkpoint(path).metadata
        planned = metadata.hyperparameters.get("epochs", metadata.epochs)  # imported weights have none
        if metadata.epochs != planned:
            raise HeatserveError(
                f"{path}: expected a training of {planned} epochs, found one that was interrupted after "
                f"{metadata.epochs}; go on with --part train"
            )
        return path

    def _row(self, system: System, sigma: float) -> SystemRow:
        made = made_now(seed=self.trainings.seed)
        path = self.trainings.path(system, sigma)
        at, name = (None, system.name) if system.lipschitz else (sigma, f"{system.name}-{sigma:g}")
        model, refused = self._calibrations.export(path, name, at), None
        if not model.card.is_deterministic:
            model, refused = self._calibrations.calibrate(model)
        count = len(self.trainings.test) if self.images is None else self.images
        data = model_images(model, self._calibrations.parts(model, test_images=count)[1])
        outputs = answers(open_served(model), data)
        noisy: NoisyPasses | None = None
        confirmed: tuple[ConfirmedRadius, ...] = ()
        milliseconds: float | None = None
        if not model.card.is_deterministic:
            first = data[: self.certify_images]
            noisy, confirmed, milliseconds = noisy_passes(
                model,
                {key: value[: len(first)] for key, value in outputs.items()},
                first,
                self.settings,
                calibrations=self._calibrations,
                keeper=self._keeper,
                progress=self.progress,
            )
        return SystemRow(
            system=system.name,
            sigma=at,
            architecture=load_checkpoint(path).metadata.architecture,
            evaluated=system.evaluated,
            kind=model.card.certificate_kind,
            settings=self.settings,
            trained=self.trainings.trained(system, sigma),
            one_pass=single_passes(model, outputs, data, top_k=self.top_k),
            noisy=noisy,
            confirmed=confirmed,
            calibration=model.card.calibration,
            refused=refused,
            times=pass_times(model, data, seed=self.trainings.seed, noisy_pass=milliseconds),
            provenance=made,
        )

    def attack(self, system: System, sigma: float, names: Collection[str]) -> None:
        """Add the rows of some attacks on a trained system, each unless it is there for the same network and settings.

        What does not depend on σ is attacked once for all. `names` are of `PAPER_ATTACKS` and `FURTHER_ATTACKS`.
        """
        from heatserve.benchmarks.paper.attacking import Attackable, by_graph, by_votes, quick

        path = self._trained(system, sigma)
        checkpoint = load_checkpoint(path)
        stochastic = system.evaluated == "stochastic"
        at = sigma if stochastic or system.has_sigma else None
        for attack in self._attacks_on(system):
            key = (system.name, at, attack.name, checkpoint.sha256, attack.settings)
            rows = self.attacks.rows
            is_there = any((row.system, row.sigma, row.attack, row.checkpoint, row.settings) == key for row in rows)
            if is_there or attack.name not in names:
                continue
            made = made_now("foolbox", "pyautoattack", seed=self.trainings.seed)
            name = system.name if system.lipschitz else f"{system.name}-{sigma:g}"
            model = self._calibrations.exported(path, name, None if system.lipschitz else sigma)
            count = len(self.trainings.test) if attack.settings.images is None else attack.settings.images
            data = model_images(model, self._calibrations.parts(model, test_images=count)[1])
            if attack.settings.votes is not None:
                base = classifier(open_session(model.path / BASE_NAME))
                scores = by_votes(base, sigma=sigma, votes=attack.settings.votes)
            else:
                scores = by_graph(open_served(model))
            target = Attackable(quick(checkpoint.network), scores, checkpoint.sha256, sigma if stochastic else None)
            distances, seconds = self._distances.distances(attack, target, data, self.progress)
            row = AttackRow(
                system=system.name,
                sigma=at,
                architecture=checkpoint.metadata.architecture,
                evaluated=system.evaluated,
                checkpoint=checkpoint.sha256,
                attack=attack.name,
                method=attack.described,
                settings=attack.settings,
                images=data.source(len(data)),
                distances=tuple(None if np.isinf(one) else float(f"{one:.6g}") for one in distances),
                seconds=round(seconds, 1),
                provenance=made,
            )
            self._add_attack(row)

    def _add_attack(self, row: AttackRow) -> None:
        def identity(one: AttackRow) -> tuple[str, float | None, str]:
            return one.system, one.sigma, one.attack

        record = self.attacks
        others = (other for other in record.rows if identity(other) != identity(row))
        rows = sorted((*others, row), key=lambda one: (one.sigma or 0.0, place_of(one.system), one.attack))
        write_record(self.results / ATTACKS_FILE, replace(record, rows=tuple(rows)), in_lines=True)

    def _attacks_on(self, system: System) -> Iterator[DistanceAttack]:
        """The paper's attacks, and of a deterministic system AutoAttack, which knows the best class only."""
        from heatserve.benchmarks.attack.autoattack import Effort
        from heatserve.benchmarks.paper.attacking import DistanceAttack

        stochastic, seed = system.evaluated == "stochastic", self.trainings.seed
        usual = DistanceSettings(
            images=self.attack_images if stochastic else self._attacked,
            top_k=self.top_k,
            limit=ATTACK_LIMIT,
            steps=ATTACK_STEPS,
            noise_samples=self.recipe.noise_samples if stochastic else None,
            votes=ATTACK_VOTES if stochastic else None,
            seed=seed,
        )
        yield DistanceAttack("PGD", usual)
        yield DistanceAttack("DDN", usual)
        if not stochastic:
            effort = Effort()
            settings = replace(
                usual,
                images=self.autoattack_images,
                top_k=1,
                limit=self.recipe.autoattack_epsilon,
                steps=effort.steps,
            )
            yield DistanceAttack("AutoAttack", settings, effort)

    @property
    def _attacked(self) -> int | None:
        """How many images deterministic models are attacked at; None: all."""
        return min([count for count in (self.images, self.recipe.attacked) if count is not None], default=None)

    @cached_property
    def _distances(self) -> DistanceKeeper:
        from heatserve.benchmarks.paper.attacking import DistanceKeeper

        return DistanceKeeper(self.trainings.folder / "attacks")

    def _is_lipschitz(self, name: str) -> bool:
        return name in self.trainings.systems and self.trainings.systems[name].lipschitz is not None


@contextmanager
def only_run_in(*folders: Path) -> Iterator[None]:
    """Hold folders for one run, until it ends: two would train the same network, and lose rows of each other.

    Raises:
        HeatserveError: another process holds one.
    """
    descriptors = []
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for folder in dict.fromkeys(folder.resolve() for folder in folders):
            descriptors.append(os.open(folder, os.O_RDONLY))
            try:
                fcntl.flock(descriptors[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HeatserveError(
                    f"{folder}: expected a folder for this run alone, but another one is working in it; wait for it, "
                    "or name others with --results and --folder"
                ) from None
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
