"""Inputs whose served radius is larger than what can be proven there, and what cheap defences stop of them."""

from __future__ import annotations

import numpy as np
import torch

from heatserve.benchmarks.attack.defences import Check, Discount, checks
from heatserve.benchmarks.attack.settings import AttackSettings
from heatserve.benchmarks.attack.spoofing import Penalty, spoof
from heatserve.benchmarks.attack.target import Target, finite, prove, tensor_batches
from heatserve.benchmarks.records.attack import CountedOverclaims, DefenceRow
from heatserve.certification.audit import certified_accuracy
from heatserve.certification.binomial import upper_bound
from heatserve.certification.calibration import Reference, count_overclaims
from heatserve.certification.monte_carlo import ABSTAIN, Certificate
from heatserve.certification.progress import Progress
from heatserve.certification.radius import Float32Array
from heatserve.export.contract import Outputs
from heatserve.export.images import LabelledImages

CERTIFIED_AT = (0.0, 0.1, 0.25)
"""Radii at which the cost of a defence is shown."""
DISCOUNTS = (0.25, 0.5, 1.0)
"""It is in units of σ."""


def search_overclaims(
    target: Target,
    images: Float32Array,
    epsilon: float,
    penalty: Penalty | None,
    settings: AttackSettings,
    progress: Progress,
    description: str,
) -> tuple[Float32Array, list[Certificate]]:
    """The inputs that a search found, and what Certify proves at them, with noise that the search did not see."""
    noise = torch.Generator().manual_seed(settings.seed)
    batches = tensor_batches(images, copies=settings.search.samples)
    found = np.concatenate(
        [
            spoof(target.victim, x, epsilon=epsilon, generator=noise, search=settings.search, penalty=penalty).numpy()
            for (x,) in progress(batches, len(batches), f"spoofing, {description}")
        ]
    )
    return found, prove(target, found, settings.seed + 1, progress, f"Certify, {description}")


def compare_defences(
    target: Target,
    data: LabelledImages,
    unaware: tuple[Float32Array, list[Certificate]],
    held_out: LabelledImages,
    settings: AttackSettings,
    progress: Progress,
) -> tuple[DefenceRow, ...]:
    """Each defence: what it costs on clean images, and what it stops of an attack that does and does not know it."""
    right = target.serve(data.images)["label"] == data.labels
    found = checks(
        target.victim, torch.from_numpy(held_out.images), samples=settings.defence_samples, seed=settings.seed
    )
    rows = []
    for defence in (None, *map(Discount, DISCOUNTS), *found):
        aware = unaware
        if isinstance(defence, Check):
            epsilon, penalty = settings.defence_epsilon, defence.penalty
            aware = search_overclaims(target, data.images, epsilon, penalty, settings, progress, defence.name)
        radius = _defended(target, data.images, defence)["certified_radius"]
        rows.append(
            DefenceRow(
                name=defence.name if defence else "none",
                passes=defence.passes if isinstance(defence, Check) else 0,
                threshold=defence.threshold if isinstance(defence, Check) else None,
                epsilon=settings.defence_epsilon,
                certified_at=CERTIFIED_AT,
                certified_accuracy=tuple(certified_accuracy(right, radius.astype(np.float64), CERTIFIED_AT)),
                unaware=count_served_overclaims(_defended(target, unaware[0], defence), unaware[1], settings),
                adaptive=count_served_overclaims(_defended(target, aware[0], defence), aware[1], settings),
            )
        )
    return tuple(rows)


def _defended(target: Target, images: Float32Array, defence: Check | Discount | None) -> Outputs:
    """The served outputs, with the radii that a defence leaves."""
    outputs = target.serve(images)
    radius = outputs["certified_radius"]
    if isinstance(defence, Discount):
        radius = np.maximum(radius - np.float32(defence.sigmas * target.victim.sigma), 0)
    if isinstance(defence, Check):
        batches = tensor_batches(images, outputs["label"], copies=max(1, int(defence.passes)))
        radius = np.where(torch.cat([defence.keeps(x, labels) for x, labels in batches]).numpy(), radius, 0)
    return {**outputs, "certified_radius": radius}


def count_served_overclaims(outputs: Outputs, proven: list[Certificate], settings: AttackSettings) -> CountedOverclaims:
    """Overclaims as the card counts them, with exact upper bounds given a positive radius and over all answers."""
    radius = outputs["certified_radius"]
    limit = np.array([certificate.radius for certificate in proven])
    labels = np.array([certificate.label for certificate in proven])
    agrees = (labels == outputs["label"]) & (labels != ABSTAIN)
    delta, positive = 1 - settings.confidence, radius > 0
    seen = count_overclaims(Reference(outputs["probabilities"], agrees, limit), radius, delta=delta)
    return CountedOverclaims(
        images=seen.images,
        positive=seen.positive,
        overclaims=seen.count,
        upper_bound=seen.upper_bound,
        upper_bound_of_all=float(upper_bound(seen.count, seen.images, alpha=delta)),
        median_served=finite(np.median(radius[positive])) if positive.any() else None,
        median_proven=finite(np.median(limit[positive])) if positive.any() else None,
    )
