"""A variant of a served model compared with the model: what it wins in latency, and loses in certified accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from heatserve.certification.calibration import CalibrationError
from heatserve.certification.errors import HeatserveError
from heatserve.certification.provenance import provenance
from heatserve.export.card import GRAPH_NAME
from heatserve.export.card_parts import Calibration, CertifiedAccuracy, Evaluation
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.served import open_served
from heatserve.export.runtime.session import as_input, open_session
from heatserve.export.runtime.timing import Way, interleave, quantiles

_ROUNDS = 20
_ROUNDING = 1e-9
"""Of the difference of two shares: a loss of exactly the largest one that is allowed passes."""


@dataclass(frozen=True)
class Comparison:
    """A calibrated variant and the model that it is a variant of, in this order.

    Attributes:
        names: the names of the two.
        evaluations: the evaluations of both on the same images, compared with the same Certify.
        milliseconds: what one image takes, medians, on the threads of this process.
        provenance: how it was measured.
    """

    names: tuple[str, str]
    evaluations: tuple[Evaluation, Evaluation]
    milliseconds: tuple[float, float]
    provenance: dict[str, Any]

    @property
    def accuracies(self) -> Iterator[tuple[str, float, float, float]]:
        """Curve of `CertifiedAccuracy`, radius, and certified accuracy there of the variant and of the model."""
        ours, other = (evaluation.certified_accuracy for evaluation in self.evaluations)
        return _curves(ours, other)

    def to_json(self) -> str:
        """Both evaluations, the latencies and the provenance, as JSON."""
        return TypeAdapter(Comparison).dump_json(self, indent=2).decode() + "\n"


def calibrated_parts(model: ModelVersion, variant: ModelVersion) -> tuple[Calibration, Evaluation]:
    """How `model` was calibrated and measured, for its `variant` to be so, too.

    Raises:
        HeatserveError: the model was not calibrated, or the two certify different base classifiers.
    """
    card = model.card
    if card.calibration is None or card.evaluation is None:
        raise HeatserveError(f"{model.name}: expected a calibrated model; run `heatserve calibrate {model.name}` first")
    expected, found = ((c.base_sha256, c.sigma) for c in (card, variant.card))
    if expected != found:
        raise HeatserveError(
            f"{variant.name}: expected a variant of {model.name}, with its base (sha256 {expected[0]}) and σ = "
            f"{expected[1]:g}; found base {found[0]} and σ = {found[1]:g}"
        )
    return card.calibration, card.evaluation


def check_loss(found: Evaluation, expected: Evaluation, *, target: float | None, max_loss: float) -> None:
    """Refuse a variant whose certificates have become useless, counted with overclaims or without.

    Args:
        found: the evaluation of the variant.
        expected: the evaluation of the model.
        target: the radius that counts, or the one measured below it; None: that which loses most.
        max_loss: the largest loss, as a share of the test images.

    Raises:
        CalibrationError: it loses more. Names the radius.
    """
    rows = list(_curves(expected.certified_accuracy, found.certified_accuracy))
    if target is not None:
        counted = max(radius for _, radius, _, _ in rows if radius <= target)
        rows = [row for row in rows if row[1] == counted]
    _, radius, before, after = max(rows, key=lambda row: row[2] - row[3])
    if before - after > max_loss + _ROUNDING:
        raise CalibrationError(
            f"variant: expected at most {max_loss:.1%} of the test images to lose their certificate at radius "
            f"{radius:g}, got {before - after:.1%} ({before:.1%} before, {after:.1%} now); nothing was published"
        )


def _curves(one: CertifiedAccuracy, other: CertifiedAccuracy) -> Iterator[tuple[str, float, float, float]]:
    """Name, radius and the certified accuracies of both: with overclaims, then without, where both were measured."""
    for name in ("single_pass", "backed"):
        first, second = getattr(one, name), getattr(other, name)
        if first is not None and second is not None:
            for row in zip(one.radii, first, second, strict=True):
                yield name, *row


def compare_variant(variant: ModelVersion, model: ModelVersion) -> Comparison:
    """Time both on one image, interleaved, on the threads of this process.

    Raises:
        HeatserveError: one of them was not calibrated.
    """
    _, found = calibrated_parts(variant, model)
    _, expected = calibrated_parts(model, variant)
    times = interleave({"variant": _one_image(variant), "model": _one_image(model)}, rounds=_ROUNDS, seed=0)
    first, second = (quantiles(blocks)["p50"] for blocks in times.values())
    return Comparison(
        (variant.name, model.name), (found, expected), (first, second), provenance("onnxruntime", "numpy")
    )


def _one_image(model: ModelVersion) -> Way:
    if model.card.plan or model.card.accelerator:
        answer = open_served(model)
        return lambda: answer(np.zeros((1, *model.card.input_shape), np.float32))
    session = open_session(model.path / GRAPH_NAME)
    image = as_input(session, np.zeros((1, *model.card.input_shape), np.float32))
    return lambda: session.run(None, {"image": image})
