"""The single pass of a tier: what the served model answers to the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.export.card import Card
from heatserve.export.runtime.served import open_version
from heatserve.serving.shadow.folder import withdrawn
from heatserve.serving.votable import one_thread


@dataclass(frozen=True)
class Passed:
    """The single pass on N images."""

    label: NDArray[np.int64]
    """Their classes, [N]; −1 where the network answers no numbers."""
    certified_radius: NDArray[np.float32]


class SinglePass:
    """The served graph of one version, on one thread."""

    def __init__(self, version_dir: Path, card: Card) -> None:
        """Load what is served.

        Raises:
            CardError: a file is not the one of the card.
            HeatserveError: what runs it is not here.
        """
        one_thread()
        self._run = open_version(version_dir, card)
        self._is_withdrawn = withdrawn(card)

    def run(self, images: NDArray[Any]) -> Passed:
        """What is served for images as a request has them, FP32 [N, C, H, W] or UINT8 [N, H, W, C]."""
        outputs = self._run(images)
        radius = outputs["certified_radius"]
        radius = np.zeros_like(radius) if self._is_withdrawn() else radius
        return Passed(outputs["label"], radius)
