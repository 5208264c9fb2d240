"""What cards say of the models that are served, as metrics: written by the server, and read with the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatserve.certification.files import write_atomically
from heatserve.serving.observed.families import CARD_ALPHA, CARD_POSITIVE, MODEL_INFO
from heatserve.serving.observed.series import Key

if TYPE_CHECKING:
    from heatserve.export.card import Card
    from heatserve.export.repository.layout import ModelVersion

_NAME = "models.json"
_GRAPH_DIGITS = 12


def declare_models(folder: Path, models: Iterable[ModelVersion], *, passed: bool | None = None) -> None:
    """Have the page say that these versions are served, and no others; to be called again after a switch.

    Args:
        folder: that of the server's metrics.
        models: all of them.
        passed: whether their backend counts nothing, so that the front is to count what passes through it; None: as it
            was declared before.
    """
    served = [*models]
    if passed is None:
        passed = bool(_read(folder)["passed"])
    names = {model.name: [*model.card.class_names] for model in served if passed}
    content = {"facts": [fact for model in served for fact in _facts(model)], "passed": names}
    write_atomically(folder / _NAME, json.dumps(content).encode())


def read_facts(folder: Path) -> list[tuple[Key, float]]:
    """What was declared last: series and their numbers."""
    return [(tuple(key), value) for key, value in _read(folder)["facts"]]


class PassedFacts:
    """The models whose answers the front is to count, as they were declared last."""

    def __init__(self, folder: Path) -> None:
        """Read them when they are asked for."""
        self._folder = folder
        self._file = (0, 0)
        self._names = dict[str, list[str]]()

    def class_names(self, model: str) -> list[str] | None:
        """The names of a model's classes; None: it is not to be counted here."""
        try:
            found = (self._folder / _NAME).stat()
        except OSError:
            return None
        if (found.st_ino, found.st_mtime_ns) != self._file:  # each declaration is a new file
            self._file = found.st_ino, found.st_mtime_ns
            self._names = _read(self._folder)["passed"]
        return self._names.get(model)


def _read(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / _NAME).read_bytes())
    except FileNotFoundError:
        return {"facts": [], "passed": {}}
    return content


def _facts(model: ModelVersion) -> Iterator[tuple[Key, float]]:
    card = model.card
    promise = card.calibration
    yield (
        (
            MODEL_INFO.name,
            model.name,
            str(model.version),
            card.graph_sha256[:_GRAPH_DIGITS],
            card.certificate_kind,
            *_promised(card),
            "tensorrt" if card.plan else card.accelerator or "cpu",
            card.date,
        ),
        1.0,
    )
    if promise:
        yield (CARD_ALPHA.name, model.name), promise.alpha
    if card.is_deterministic:
        yield (CARD_ALPHA.name, model.name), 0.0
    if card.evaluation and card.evaluation.calibrated.images:
        rate = card.evaluation.calibrated
        yield (CARD_POSITIVE.name, model.name), rate.positive / rate.images


def _promised(card: Card) -> tuple[str, str, str]:
    """σ, α and the confidence, as labels; empty where there is none."""
    if card.is_deterministic:
        return "", "0", "1"
    part = card.calibration
    return f"{card.sigma:g}", f"{part.alpha:g}" if part else "", f"{part.confidence:g}" if part else ""
