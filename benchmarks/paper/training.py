"""The systems of one data set, trained from one baseline: each when it is asked for, and as far as it is not yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from heatserve.benchmarks.records.paper import Evaluated, TrainedSystem
from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.training import accuracy, load_checkpoint, train_baseline, train_from, train_lipschitz
from heatserve.training.architectures import choose_architecture
from heatserve.training.data import ImageData, load_data
from heatserve.training.loop import Optimisation, Run, TrainingProgress, unseen_training
from heatserve.training.loop.log import read_epochs
from heatserve.training.methods.parameters import Parameters, require

BASELINE_SYSTEM = "baseline"
"""The name of the undefended network that the others start from."""


@dataclass(frozen=True)
class System:
    """How a network is trained: a row of the tables."""

    name: str
    labels: bool
    """Whether this training uses any."""
    parameters: Callable[[float], Parameters] | None
    """Of the method, from σ; None: fresh weights, with cross entropy or, where `lipschitz` names one, a margin."""
    optimisation: Optimisation
    start: str = BASELINE_SYSTEM
    """The system whose network it starts from, unless its weights are fresh."""
    evaluated: Evaluated = "deterministic"
    """How the paper answers with it: one pass, or an average over noise."""
    lipschitz: str | None = None
    """The architecture of a network that is 1-Lipschitz by construction, in place of that of all others."""

    @property
    def is_fresh(self) -> bool:
        """Whether it starts from fresh weights."""
        return self.parameters is None

    @property
    def has_sigma(self) -> bool:
        """Whether its network depends on σ."""
        return self.parameters is not None and hasattr(self.parameters(1.0), "sigma")


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """Checkpoints of systems in a folder, on one data set.

    Args:
        dataset: see `load_data`.
        root: folder of the data set, for those that have one.
        folder: the folder of checkpoints, which a later run goes on from.
        architecture: the network of all systems but those that are 1-Lipschitz, see `build_network`; code that it names
            is run.
        systems: by name; each start is among them.
        seed: decides everything.
        device: that networks are trained on.
        progress: shows the training.
    """

    dataset: str
    root: Path | None
    folder: Path
    architecture: str
    systems: Mapping[str, System] = field(repr=False)
    seed: int = 0
    device: str = "cpu"
    progress: TrainingProgress = unseen_training

    def __post_init__(self) -> None:
        """Refuse checkpoints of another network or data set, which those of this one would replace."""
        path = self.folder / f"{BASELINE_SYSTEM}.safetensors"
        if path.is_file():
            found = load_checkpoint(path).metadata
            for here, there in ((self.network, found.architecture), (self.dataset, found.dataset)):
                if here != there:
                    raise HeatserveError(
                        f"{path}: expected results of {here}, got some of {there}, which would be replaced: "
                        f"name others with --results and --folder"
                    )

    @cached_property
    def network(self) -> str:
        """The architecture as checkpoints record it."""
        return choose_architecture(self.architecture).reference

    @cached_property
    def train(self) -> ImageData:
        """The training images."""
        return load_data(self.dataset, "train", self.root)

    @cached_property
    def test(self) -> ImageData:
        """The test images."""
        return load_data(self.dataset, "test", self.root)

    def system(self, name: str) -> System:
        """The system of a name.

        Raises:
            ParameterError: there is none.
        """
        require("system", name, name in self.systems, ", ".join(self.systems))
        return self.systems[name]

    def path(self, system: System, sigma: float) -> Path:
        """Where its network is, or will be."""
        suffix = f"-{sigma:g}" if system.has_sigma else ""
        return self.folder / f"{system.name}{suffix}.safetensors"

    def checkpoint(self, system: System, sigma: float) -> Path:
        """The trained network of a system, trained now as far as it is not yet, with those that it starts from."""
        out = self.path(system, sigma)
        how: dict[str, Any] = {"out": out, "optimisation": system.optimisation, "seed": self.seed, "run": self._run}
        if system.lipschitz:
            return train_lipschitz(self.train, system.lipschitz, **how)
        if system.parameters is None:
            return train_baseline(self.train, self.architecture, **how)
        return train_from(
            self.checkpoint(self.systems[system.start], sigma), self.train, system.parameters(sigma), **how
        )

    def trained(self, system: System, sigma: float) -> TrainedSystem:
        """How the network of a system, trained already, came to be."""
        checkpoint = load_checkpoint(self.path(system, sigma))
        stages = self._stages(system)
        later = [stage for stage in stages if stage.name != BASELINE_SYSTEM] or stages
        parts = [part for stage in later for part in self._parts(stage, sigma)]
        seconds = [float(epoch["seconds"]) for part in parts for epoch in read_epochs(part)]
        return TrainedSystem(
            checkpoint=checkpoint.sha256,
            base_checkpoint=checkpoint.metadata.base_sha256,
            method=checkpoint.metadata.method,
            start=None if system.is_fresh else system.start,
            labels=system.labels,
            labels_in_all=any(stage.labels for stage in stages),
            epochs=self._epochs(later, sigma),
            epochs_in_all=self._epochs(stages, sigma),
            seconds=round(sum(seconds), 1) if seconds else None,
            hyperparameters=checkpoint.metadata.hyperparameters,
        )

    def clean_accuracy(self, system: System, sigma: float) -> float:
        """The accuracy of one pass on all clean test images."""
        return accuracy(load_checkpoint(self.path(system, sigma)).network, self.test)

    @property
    def _run(self) -> Run:
        return Run(device=self.device, resume=True, progress=self.progress)

    def _stages(self, system: System) -> list[System]:
        """The trainings that lead to a system, the first one first."""
        return [*([] if system.is_fresh else self._stages(self.systems[system.start])), system]

    def _parts(self, system: System, sigma: float) -> list[Path]:
        """Its checkpoint, after those of the time steps before it."""
        path = self.path(system, sigma)
        return [*sorted(path.parent.glob(f"{path.stem}.step*{path.suffix}")), path]

    def _epochs(self, stages: list[System], sigma: float) -> int:
        return sum(load_checkpoint(part).metadata.epochs for stage in stages for part in self._parts(stage, sigma))


def take_kept(results: Path, folder: Path) -> None:
    """Copy checkpoints, with their logs, that are kept beside results to where a run works, unless it has them."""
    for kept in sorted(results.glob("*.safetensors")):
        for path in (kept.with_suffix(".jsonl"), kept):
            if path.is_file() and not (folder / kept.name).exists():
                write_atomically(folder / path.name, path.read_bytes())
