"""Made-up results of `heatserve paper`, as its records have them: what a report shows of them is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.benchmarks.records.paper import (
    AttackRow,
    AttacksRecord,
    ConfirmedRadius,
    DistanceSettings,
    NoisyPasses,
    PassTimes,
    SinglePasses,
    SystemRow,
    SystemSettings,
    SystemsRecord,
    TrainedSystem,
)
from heatserve.benchmarks.records.record import Machine, Record
from heatserve.export.card_parts import MonteCarlo, Split

MADE = Record(
    command="heatserve paper --dataset digits",
    machine=Machine(processor="a processor", cores=2, system="a system", load_average=0.5),
    versions={"heatserve": "0.1.0", "python": "3.11.7"},
    date="2026-11-26T12:00:00+00:00",
    seed=0,
)
SIGMA = 0.25
CERTIFY = MonteCarlo(n0=100, n=1000, alpha=0.001, seed=1)
SYSTEMS = ("baseline", "noise", "smoothadv", "heat", "average", "madry", "madry-heat")


def system_row(system: str, *, images: int = 60, proven: int = 40, sigma: float = SIGMA) -> SystemRow:
    """One system: its numbers are drawn by its name, and image 0 overclaims."""
    rng = np.random.default_rng(sum(map(ord, system)))
    truth = rng.integers(0, 10, images)
    label = np.where(rng.random(images) < 0.8, truth, (truth + 1) % 10)
    radii = rng.gamma(2.0, 0.15, proven).round(4)
    served = np.concatenate([radii, rng.gamma(2.0, 0.15, images - proven)]).round(4) * 0.8
    served[0] = radii[0] + 0.1
    return SystemRow(
        system=system,
        sigma=sigma,
        architecture="digits_cnn",
        evaluated="stochastic" if system in ("noise", "smoothadv") else "deterministic",
        kind="statistical",
        settings=SystemSettings(
            images=None,
            certify_images=proven,
            monte_carlo=CERTIFY,
            top_k=1,
            calibration_images=100,
            calibration_alpha=0.1,
            calibration_delta=0.05,
            confirm_alpha=1e-6,
        ),
        trained=TrainedSystem(
            checkpoint="ab" * 32,
            base_checkpoint=None,
            method=system,
            start=None if system == "baseline" else "baseline",
            labels=system != "heat",
            labels_in_all=True,
            epochs=2,
            epochs_in_all=22,
            seconds=12.5,
            hyperparameters={"lr": 0.05},
        ),
        one_pass=SinglePasses(
            images=Split(dataset="digits", split="test", images=images, seed=0),
            truth=_whole(truth),
            label=_whole(label),
            right=tuple(bool(x) for x in label == truth),
            l_bound=_real(served * 0.9),
            nominal=_real(served * 1.5),
            served=_real(served if system != "baseline" else served * 0),
        ),
        noisy=NoisyPasses(
            proven_label=_whole(label[:proven]),
            proven_radius=_real(radii),
            top_k_radius=_real(radii),
            top_k_right=tuple(bool(x) for x in (label == truth)[:proven]),
            named_radius=_real(radii),
            vote_label=_whole(label[:proven]),
            average_label=_whole(label[:proven]),
            average_right=tuple(bool(x) for x in (label == truth)[:proven]),
            average_l_bound=_real(radii * 0.8),
        ),
        confirmed=tuple(
            ConfirmedRadius(
                radius=radius,
                proven=tuple(bool(x) for x in radii >= radius),
                votes=_whole(rng.integers(8, 200, proven)),
            )
            for radius in (0.125, 0.25)
        ),
        calibration=None,
        refused="too few images" if system == "baseline" else None,
        times=PassTimes(one_pass=0.05, noisy_pass=0.01),
        provenance=MADE,
    )


def attack_row(system: str, attack: str, *, images: int = 30, sigma: float = SIGMA) -> AttackRow:
    """Distances of one attack; image 1 was not misclassified within the limit."""
    rng = np.random.default_rng(sum(map(ord, system + attack)))
    distances: list[float | None] = [float(value) for value in rng.gamma(3.0, 0.2, images).round(4)]
    distances[1] = None
    return AttackRow(
        system=system,
        sigma=sigma,
        architecture="digits_cnn",
        evaluated="deterministic",
        checkpoint="ab" * 32,
        attack=attack,  # type: ignore[arg-type]
        method="an attack",
        settings=DistanceSettings(images=images, top_k=1, limit=4.0, steps=20, noise_samples=None, votes=None, seed=0),
        images=Split(dataset="digits", split="test", images=images, seed=0),
        distances=tuple(distances),
        seconds=3.0,
        provenance=MADE,
    )


def systems(*, images: int = 60, proven: int = 40, dataset: str = "digits") -> SystemsRecord:
    """All systems at one σ."""
    return SystemsRecord(
        dataset=dataset, rows=tuple(system_row(name, images=images, proven=proven) for name in SYSTEMS)
    )


def attacks(dataset: str = "digits") -> AttacksRecord:
    """PGD and DDN on all of them; AutoAttack was not run."""
    rows = tuple(attack_row(name, attack) for name in SYSTEMS for attack in ("PGD", "DDN"))
    return AttacksRecord(dataset=dataset, rows=rows)


def _whole(values: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _real(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
