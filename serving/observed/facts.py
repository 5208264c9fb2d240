"""What cards say of the models that are served, as metrics: written by the server, and read with the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from heatserve.certification.files import write_atomically
from heatserve.serving.observed.families import CARD_ALPHA, CARD_POSITIVE, MODEL_INFO
from heatserve.serving.observed.series import Key

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion

_NAME = "models.json"
_GRAPH_DIGITS = 12


def declare_models(folder: Path, models: Iterable[ModelVersion]) -> None:
    """Have the page say that these versions are served, and no others; to be called again after a switch."""
    facts = [fact for model in models for fact in _facts(model)]
    write_atomically(folder / _NAME, json.dumps(facts).encode())


def read_facts(folder: Path) -> list[tuple[Key, float]]:
    """What was declared last: series and their numbers."""
    try:
        return [(tuple(key), value) for key, value in json.loads((folder / _NAME).read_bytes())]
    except FileNotFoundError:
        return []


def _facts(model: ModelVersion) -> Iterator[tuple[Key, float]]:
    card = model.card
    promise = card.calibration
    yield (
        (
            MODEL_INFO.name,
            model.name,
            str(model.version),
            card.graph_sha256[:_GRAPH_DIGITS],
            f"{card.sigma:g}",
            f"{promise.alpha:g}" if promise else "",
            f"{promise.confidence:g}" if promise else "",
            "tensorrt" if card.plan else card.accelerator or "cpu",
            card.date,
        ),
        1.0,
    )
    if promise:
        yield (CARD_ALPHA.name, model.name), promise.alpha
    if card.evaluation and card.evaluation.calibrated.images:
        rate = card.evaluation.calibrated
        yield (CARD_POSITIVE.name, model.name), rate.positive / rate.images
