"""What `bench lipschitz` finds: what hours of training brought a 1-Lipschitz network, and what it proves in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record
from heatserve.export.card_parts import Share, Split


@dataclass(frozen=True, kw_only=True)
class TrainedEpoch:
    """One epoch, as the log of the training has it."""

    seconds: float
    """Since the training began, without what it waited between two runs."""
    accuracy: Share
    """Of the training images as they were augmented, by the network as it was at their step."""
    certified: Share
    """Those of them whose class is right by the margin of ε, norms being estimates."""


@dataclass(frozen=True, kw_only=True)
class LipschitzTrainingRecord(Record):
    """One training, and what the graph that is exported of it proves about test images."""

    architecture: str
    dataset: str
    checkpoint_sha256: str
    graph_sha256: str
    hyperparameters: Mapping[str, bool | int | float | str | None]
    epochs: tuple[TrainedEpoch, ...]
    data: Split
    """Of the figures below."""
    radii: tuple[float, ...]
    """L2, pixels in [0,1]."""
    accuracy: Share
    certified: tuple[Share, ...]
    """The class is right and the proven radius at least each radius."""

    @property
    def epsilon(self) -> float:
        """ε of the loss: what `certified` of the epochs is about."""
        return float(self.hyperparameters["epsilon"] or 0)
