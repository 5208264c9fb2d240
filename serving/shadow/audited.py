"""What the shadow audit is to the process that answers single passes: where its answers go, and what it forbids."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.export.card import Card
from heatserve.export.contract import Reason
from heatserve.serving.observed.families import SHADOW_DROPPED
from heatserve.serving.observed.recorder import Recorder
from heatserve.serving.shadow.folder import AuditFolder, withdrawn
from heatserve.serving.shadow.sampler import Sampler
from heatserve.serving.votable import votable_pixels
from heatserve.serving.vote_protocol import socket_folder


class Audited:
    """The audit of one model, as an instance of it sees it; where there is none, it does nothing."""

    def __init__(self, version_dir: Path, card: Card, recorder: Recorder) -> None:
        """Begin to hand answers over, where the server audits and the card promises a rate of overclaims.

        A deterministic certificate promises none: Certify would judge another classifier than the one that is served.

        Args:
            version_dir: of the model, as Triton sees it.
            card: of the version.
            recorder: of this process.

        Raises:
            CardError: the graph is not the one of the card.
        """
        folder = AuditFolder.of_environment()
        self._is_withdrawn = withdrawn(card)
        self._sampler: Sampler | None = None
        if folder is not None and card.calibration is not None:
            self._sampler = Sampler(
                socket_folder(version_dir.parent.resolve().parent, card.model),
                share=folder.settings.share,
                shape=card.input_shape,
                pixels=votable_pixels(version_dir, card),
                on_drop=partial(recorder.add, SHADOW_DROPPED, card.model),
            )
            self._sampler.start()

    def withdraw(self, outputs: dict[str, NDArray[Any]]) -> None:
        """Where the promise is withdrawn, claim nothing: radius and L-bound 0 in place of those of the calibration."""
        if not self._is_withdrawn():
            return
        claimed = outputs["certified_radius"] > 0
        for name in ("certified_radius", "l_bound"):
            outputs[name] = np.zeros_like(outputs[name])
        reason = outputs["reason"]
        outputs["reason"] = np.where(claimed, Reason.WITHDRAWN, reason).astype(reason.dtype)

    def offer(self, images: NDArray[Any], outputs: dict[str, NDArray[Any]], *, among: NDArray[np.bool_]) -> None:
        """Have some of the answers judged; see `Sampler.offer`."""
        if self._sampler is not None:
            self._sampler.offer(images, outputs, among)
