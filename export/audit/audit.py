"""An audit of a served graph by somebody who did not make it: its exact bytes, compared with Certify of its base.

It judges the promise on the card, so Certify runs with the n₀, n and alpha that the promise names, but on images that
no calibration of the model's repository used, not even for figures, and with noise of another seed. Needs no torch:
images come as arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from heatserve.certification.audit import (
    AuditError,
    Group,
    Partition,
    Rate,
    Verdict,
    by_radius,
    check_promise,
    judge_promise,
    look_at_groups,
    rate,
)
from heatserve.certification.monte_carlo import largest_provable
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.provenance import provenance
from heatserve.export.calibration.attempts import read_attempts
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.evaluate import (
    BIN_WIDTH,
    ComparedAnswers,
    accuracy_over_radius,
    as_judged,
    compare_with_certify,
)
from heatserve.export.card import Card
from heatserve.export.card_parts import Calibration, CertifiedAccuracy, MonteCarlo, Split
from heatserve.export.images import Sampled, SampledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import ModelImages, check_images, model_images
from heatserve.export.runtime.served import open_served

RADIUS_STEP = 0.04
"""Distance of neighbouring radii at which certified accuracy is reported, in units of σ."""


@dataclass(frozen=True)
class Answers:
    """What was served and what Certify proves, image by image; radii in L2, pixels in [0,1]."""

    truth: tuple[int, ...]
    label: tuple[int, ...]
    certified_radius: tuple[float, ...]
    proven_label: tuple[int, ...]
    """Class of the smoothed classifier, −1 where Certify abstains."""
    proven_radius: tuple[float, ...]
    overclaims: tuple[bool, ...]


@dataclass(frozen=True)
class Measured:
    """What was seen; the bounds of each rate hold with the card's confidence, those of groups together."""

    data: Split
    monte_carlo: MonteCarlo
    overclaims: Rate
    """Overclaims among the positive radii, which is what the card bounds."""
    overclaims_of_all: Rate
    """Overclaims among all answers."""
    nominal_overclaims: Rate
    """Overclaims among the positive nominal radii, which promise nothing, for comparison."""
    agreement: Rate
    """The single pass names the class with the most votes."""
    clean_accuracy: Rate
    smoothed_accuracy: Rate
    certified_accuracy: CertifiedAccuracy
    groups: tuple[Group, ...]
    answers: Answers


@dataclass(frozen=True)
class Audit:
    """The verdict on one model version, the card that was judged, and all that it rests on."""

    card: Card
    version: int
    verdict: Verdict
    measured: Measured | None
    """None where there was no promise to judge."""
    provenance: dict[str, Any]

    def to_json(self) -> str:
        """Verdict, card, everything measured and the provenance, as JSON."""
        return TypeAdapter(Audit).dump_json(self, indent=2).decode()


def unused_seed(card: Card) -> int:
    """A seed of the noise that neither the calibration nor the figures of a card were made with."""
    return next(seed for seed in count() if seed not in _used_seeds(card))


def unused_test_images(model: ModelVersion, dataset: str, *, root: Path | None = None) -> Split:
    """The images of the split `test` of a data set that neither the card nor an attempt of its repository used.

    They are the last ones of the permutation of the card's figures, where these are of that data set. Needs torch, to
    load the data.

    Raises:
        AuditError: there are none.
        AttemptsError: a record of attempts is damaged.
        DataError: no such data set.
    """
    from heatserve.training.data import load_data

    figures = model.card.evaluation
    named = figures is not None and (figures.data.dataset, figures.data.split) == (dataset, "test")
    begun = figures.data if figures and named else Split(dataset=dataset, split="test", images=0, seed=0)
    unused_from = read_attempts(model.path.parents[1]).unused_from(dataset, "test", begun.seed)
    first, size = max(unused_from, begun.end), len(load_data(dataset, "test", root))
    if first >= size:
        raise AuditError(
            f"{dataset}, split 'test': expected images that the figures of the card did not use, got none: it has "
            f"{size}, and none comes after those that calibrations and figures used; audit on other images with --data "
            "(another calibration uses more of these, and frees none)"
        )
    return begun.model_copy(update={"images": size - first, "first": first, "passed_over": 0})


def audit_model(
    model: ModelVersion,
    data: SampledImages,
    *,
    seed: int,
    folder: Path | None = None,
    progress: Progress = unseen,
) -> Audit:
    """Compare the served bytes of `model` with Certify on `data`, and judge the promise on its card.

    Args:
        model: as `open_model` verified it. Without a calibration it fails at once: it promises nothing.
        data: images of a test split, drawn like the requests to come.
        seed: decides the noise of Certify; not one that the card was made with.
        folder: the folder of ledgers, as for `Certifier`: an interrupted audit goes on from them.
        progress: see `Progress`.

    Raises:
        AuditError: images that training, calibration or the figures of the card used, the seed of its noise, a
            promise that cannot be audited, or a deterministic certificate.
        AttemptsError: a record of attempts to calibrate is damaged.
        CardError: what is served has changed since the card was verified.
        HeatserveError: images of another shape than the model's, or what runs it is not here (`runtime.served`).
    """
    calibration = model.card.calibration
    if model.card.is_deterministic:
        raise AuditError(f"{model.name}: expected a statistical certificate, got a deterministic one, see audit_proven")
    if calibration is None:
        return audit_uncalibrated(model)
    check_images(model, data)
    _check_unseen(calibration, data)
    if seed in _used_seeds(model.card):
        raise AuditError(f"seed: expected noise that the card was not made with, got its seed {seed}")
    delta = 1 - calibration.confidence
    check_promise(alpha=calibration.alpha, delta=delta)  # before Certify takes its time
    monte_carlo = calibration.monte_carlo.model_copy(update={"seed": seed})
    images = model_images(model, data)
    _check_unused(model, images)
    certifier = Certifier(monte_carlo, folder=folder, progress=progress)
    compared = compare_with_certify(model, open_served(model), images, certifier)
    measured = _measure(model.card, calibration, images, monte_carlo, compared)
    overclaims = measured.overclaims
    verdict = judge_promise(overclaims.count, overclaims.total, alpha=calibration.alpha, delta=delta)
    return Audit(model.card, model.version, verdict, measured, _provenance())


def audit_uncalibrated(model: ModelVersion) -> Audit:
    """The audit of a model that promises nothing: it fails, whatever the images."""
    reason = f"Not calibrated: it serves radius 0 and promises nothing until `heatserve calibrate {model.name}`."
    return Audit(model.card, model.version, Verdict(False, (reason,)), None, _provenance())


def _provenance() -> dict[str, Any]:
    return provenance("onnx", "onnxruntime", "numpy", "scipy")


def _used_seeds(card: Card) -> set[int]:
    return {part.monte_carlo.seed for part in (card.calibration, card.evaluation) if part is not None}


def _parts_of(card: Card) -> list[Split]:
    """The images that a card was made with: those of its figures, and of its calibration."""
    figures = [card.evaluation.data] if card.evaluation else []
    return [*figures, *([card.calibration.fit, card.calibration.check] if card.calibration else [])]


def _check_unseen(calibration: Calibration, data: Sampled) -> None:
    """Refuse another split than `test`, or that of the calibration; those that are vouched for are of `test`."""
    parts = () if calibration.vouched else (calibration.fit, calibration.check)
    seen = {(part.dataset, part.split) for part in parts}
    if data.split != "test" or (data.dataset, data.split) in seen:
        raise AuditError(
            f"data: expected images that neither training nor calibration saw, a split 'test', got split "
            f"{data.split!r} of {data.dataset}; the card was calibrated on split {calibration.check.split!r} of "
            f"{calibration.check.dataset}"
        )


def _check_unused(model: ModelVersion, images: ModelImages) -> None:
    """Refuse images that an attempt to calibrate used, in whichever data set they are, and those of the card.

    Where no attempt is recorded, as beside a version that was copied by itself, the card is all that is known.
    """
    attempts = read_attempts(model.path.parents[1])
    used = sum(digest in attempts.pixels for digest in images.pixel_digests)
    for part in _parts_of(model.card):
        if (part.dataset, part.split) == (images.dataset, images.split):
            last = min(part.end, images.first + len(images))
            shared = last - max(part.first, images.first) if part.seed == images.seed else 0
            if part.seed != images.seed and not attempts.lines:
                shared = len(images)
            used = max(used, shared)
    if used:
        raise AuditError(
            f"{images.dataset}, split {images.split!r}: expected images that neither a calibration nor the figures of "
            f"a card in {model.path.parents[1]} used, got {used} of {len(images)} that one did, or may have; take "
            "those after them (`heatserve audit` does), or others with --data"
        )


def _measure(
    card: Card,
    calibration: Calibration,
    data: ModelImages,
    monte_carlo: MonteCarlo,
    compared: ComparedAnswers,
) -> Measured:
    delta, sigma = 1 - calibration.confidence, card.sigma
    outputs, reference = compared.outputs, compared.reference
    radius, nominal = (outputs[name].astype(np.float64) for name in ("certified_radius", "nominal_radius"))
    overclaims, positive = reference.overclaims(radius), radius > 0
    judged = as_judged(nominal, monte_carlo)
    partitions = (
        Partition("answered class", card.class_names, outputs["label"]),
        Partition("true class", card.class_names, data.labels),
        by_radius(radius, width=BIN_WIDTH * sigma),
    )
    return Measured(
        data=data.source(len(reference)),
        monte_carlo=monte_carlo,
        overclaims=rate(overclaims[positive], delta=delta),
        overclaims_of_all=rate(overclaims, delta=delta),
        nominal_overclaims=rate(reference.overclaims(judged)[judged > 0], delta=delta),
        agreement=rate(compared.smoothed_label == outputs["label"], delta=delta),
        clean_accuracy=rate(outputs["label"] == data.labels, delta=delta),
        smoothed_accuracy=rate(compared.smoothed_label == data.labels, delta=delta),
        certified_accuracy=accuracy_over_radius(compared, data.labels, _radii(sigma, monte_carlo)),
        groups=look_at_groups(partitions, positive, overclaims, alpha=calibration.alpha, delta=delta),
        answers=Answers(
            truth=tuple(data.labels.tolist()),
            label=tuple(outputs["label"].tolist()),
            certified_radius=tuple(radius.tolist()),
            proven_label=tuple(compared.proven_label.tolist()),
            proven_radius=tuple(compared.proven_radius.tolist()),
            overclaims=tuple(overclaims.tolist()),
        ),
    )


def _radii(sigma: float, monte_carlo: MonteCarlo) -> tuple[float, ...]:
    """From 0 in steps of `RADIUS_STEP`·σ up to what Certify can prove (L2, pixels in [0,1])."""
    steps = math.ceil(largest_provable(n=monte_carlo.n, alpha=monte_carlo.alpha) / RADIUS_STEP)
    return tuple(round(step * RADIUS_STEP * sigma, 9) for step in range(steps + 1))
