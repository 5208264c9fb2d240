"""Falsification: distances of PGD and DDN, spoofed certificates, and what cheap defences change.

Every figure is taken from the graphs themselves in ONNX Runtime: the single pass from the served one, the smoothed
class from Monte Carlo on the base classifier.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from heatserve.benchmarks.attack.distances import measure_distances
from heatserve.benchmarks.attack.overclaims import compare_defences, count_served_overclaims, search_overclaims
from heatserve.benchmarks.attack.settings import AttackSettings
from heatserve.benchmarks.attack.target import Target, prove
from heatserve.benchmarks.records.attack import AttackRecord, SearchedOverclaims
from heatserve.benchmarks.records.record import made_now
from heatserve.certification.errors import HeatserveError
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.provenance import now
from heatserve.export.card_parts import Attack, OverclaimRate, Spoofed
from heatserve.export.images import LabelledImages


def attack_model(
    target: Target,
    data: LabelledImages,
    held_out: LabelledImages,
    settings: AttackSettings,
    progress: Progress = unseen,
) -> AttackRecord:
    """Attack the images of `data` in every way, and count what comes of it.

    Args:
        target: the model.
        data: images to attack.
        held_out: other images, which only the thresholds of the defences are taken from.
        settings: how hard to attack.
        progress: shows each search, and what Certify proves at what it found.
    """
    torch.manual_seed(settings.seed)  # foolbox draws a direction where a gradient vanishes
    proven = prove(target, data.images, settings.seed, progress, "Certify, images as they are")
    outputs = target.serve(data.images)
    distances, within_served, within_proven = measure_distances(target, data, proven, outputs, settings, progress)
    record = AttackRecord(
        **vars(made_now(seed=settings.seed)),
        model=target.model.name,
        graph_sha256=target.model.card.graph_sha256,
        data=data.source(len(data.images)),
        monte_carlo=target.monte_carlo,
        settings=settings,
        distances=distances,
        within_served=within_served,
        within_proven=within_proven,
        spoofing=None,
        defences=None,
    )
    if target.model.card.calibration is None:
        return record
    found = {0.0: (data.images, proven)}
    for epsilon in sorted({*settings.spoof_epsilons, settings.defence_epsilon}):
        found[epsilon] = search_overclaims(target, data.images, epsilon, None, settings, progress, f"ε = {epsilon:g}")
    spoofing = tuple(
        SearchedOverclaims(epsilon=epsilon, **vars(count_served_overclaims(target.serve(images), certified, settings)))
        for epsilon, (images, certified) in found.items()
    )
    unaware = found[settings.defence_epsilon]
    defences = compare_defences(target, data, unaware, held_out, settings, progress)
    return replace(record, spoofing=spoofing, defences=defences)


def card_part(record: AttackRecord) -> Attack:
    """What the card says about an attack.

    Raises:
        HeatserveError: the model was not calibrated, so there was nothing to spoof.
    """
    if record.spoofing is None:
        raise HeatserveError(f"{record.model}: not calibrated, so its card promises no radius to attack")
    return Attack(
        data=record.data,
        monte_carlo=record.monte_carlo,
        confidence=record.settings.confidence,
        served_positive=record.within_served.positive,
        changed_within_served=record.within_served.changed,
        proven_tested=record.within_proven.tested,
        changed_within_proven=record.within_proven.violations,
        spoofed=tuple(
            Spoofed(
                epsilon=row.epsilon,
                overclaim=OverclaimRate(**{name: getattr(row, name) for name in OverclaimRate.model_fields}),
                upper_bound_of_all=row.upper_bound_of_all,
            )
            for row in record.spoofing
            if row.epsilon > 0
        ),
        date=now(),
    )
