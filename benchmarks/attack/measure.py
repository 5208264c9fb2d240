"""Falsification: distances of PGD and DDN, spoofed certificates, and what cheap defences change.

Every figure is taken from the graphs themselves in ONNX Runtime: the single pass from the served one, the smoothed
class from Monte Carlo on the base classifier.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from heatserve.benchmarks.attack.distances import distances
from heatserve.benchmarks.attack.settings import AttackSettings
from heatserve.benchmarks.attack.spoofed import defences, overclaims, spoofed
from heatserve.benchmarks.attack.target import Target, prove
from heatserve.certification.errors import HeatserveError
from heatserve.certification.progress import Progress
from heatserve.certification.provenance import now
from heatserve.export.card import Attack, MonteCarlo, OverclaimRate, Spoofed
from heatserve.export.images import LabelledImages


def measure(
    target: Target, data: LabelledImages, thresholds: LabelledImages, settings: AttackSettings, progress: Progress
) -> dict[str, Any]:
    """Everything that `heatserve attack` prints, for the images of `data`.

    `thresholds` are other images, which only the thresholds of the defences are taken from. A model that is not
    calibrated has no certificate to spoof: then `spoofing` and `defences` are None.
    """
    torch.manual_seed(settings.seed)  # foolbox draws a direction where a gradient vanishes
    proven = prove(target, data.images, settings.seed, progress, "Certify, images as they are")
    outputs = target.serve(data.images)
    rows, inside = distances(target, data, proven, outputs, settings, progress)
    results: dict[str, Any] = {
        "model": target.model.name,
        "graph_sha256": target.model.card.graph_sha256,
        "data": data.source(len(data.images)).model_dump(),
        "monte_carlo": target.monte_carlo.model_dump(),
        "settings": asdict(settings),
        "distances": rows,
        **inside,
        "spoofing": None,
        "defences": None,
    }
    if target.model.card.calibration is None:
        return results
    found = {0.0: (data.images, proven)}
    for epsilon in sorted({*settings.spoof_epsilons, settings.defence_epsilon}):
        found[epsilon] = spoofed(target, data.images, epsilon, None, settings, progress, f"ε = {epsilon:g}")
    results["spoofing"] = [
        {"epsilon": epsilon, **overclaims(target.serve(images), certified, settings)}
        for epsilon, (images, certified) in found.items()
    ]
    results["defences"] = defences(target, data, found[settings.defence_epsilon], thresholds, settings, progress)
    return results


def card_part(results: dict[str, Any], data: LabelledImages) -> Attack:
    """What the card says about an attack with these results.

    Raises:
        HeatserveError: the model was not calibrated, so there was nothing to spoof.
    """
    if results["spoofing"] is None:
        raise HeatserveError(f"{results['model']}: not calibrated, so its card promises no radius to attack")
    return Attack(
        data=data.source(len(data.images)),
        monte_carlo=MonteCarlo(**results["monte_carlo"]),
        confidence=results["settings"]["confidence"],
        served_positive=results["within_served"]["positive"],
        changed_within_served=results["within_served"]["changed"],
        proven_tested=results["within_proven"]["tested"],
        changed_within_proven=results["within_proven"]["violations"],
        spoofed=tuple(
            Spoofed(
                epsilon=row["epsilon"],
                overclaim=OverclaimRate(**{name: row[name] for name in OverclaimRate.model_fields}),
                upper_bound_of_all=row["upper_bound_of_all"],
            )
            for row in results["spoofing"]
            if row["epsilon"] > 0
        ),
        date=now(),
    )
