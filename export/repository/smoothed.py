"""Models whose certificate is statistical, about a smoothed classifier: what votes or calibrates needs one.

A deterministic certificate has no base network, no σ and no tiers. Whatever needs these is refused here, before any
work, with what to do in its place.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from heatserve.certification.errors import HeatserveError
from heatserve.export.repository.layout import ModelVersion, open_model


class DeterministicError(HeatserveError):
    """Something was asked of a model with a deterministic certificate that only a smoothed classifier has."""


class SmoothedWork(Enum):
    """Work on a smoothed classifier, as what a user is told of it whose model has none."""

    CALIBRATION = "there is nothing to calibrate; serve it as it is: heatserve serve {model}"
    REFERENCE = (
        "there are no calibration images that live inputs could be compared with, and nothing that a comparison could "
        "speak against; serve it as it is: heatserve serve {model}"
    )
    TIERS = "votes could prove nothing beyond that; ask the single pass: heatserve predict --model {model}"
    VOTES = "no base network votes under noise; to see what its radii are worth: heatserve audit {model}"
    ATTACK = "no radius is there to spoof; to see whether attacks within its radii fail: heatserve audit {model}"
    FAULTS = "the faults that are tried here are those of a base graph and a sigma; name a model that has them"


def require_smoothed(model: ModelVersion, work: SmoothedWork) -> None:
    """Refuse a model that has no smoothed classifier to do this work on.

    Raises:
        DeterministicError: its certificate is deterministic; says what that means, and what to do.
    """
    if model.card.is_deterministic:
        advice = work.value.format(model=model.name)
        raise DeterministicError(
            f"{model.name}: expected a statistical certificate, about a smoothed classifier, got a deterministic one, "
            f"whose radii are proven of the class that is served, for every image: {advice}"
        )


def open_smoothed(repository: Path, name: str, work: SmoothedWork) -> ModelVersion:
    """The newest version of a model whose certificate is statistical.

    Raises:
        CardError: see `open_model`.
        DeterministicError: see `require_smoothed`.
    """
    model = open_model(repository, name)
    require_smoothed(model, work)
    return model
