"""What is asked: a served model, images whose answers are known, and whether an answer is one that may be given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float32Array
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.served import open_served
from heatserve.export.runtime.session import Runner
from heatserve.export.tiers import TierModel

CERTIFIED = "certified_radius"
_TOLERANCE = 0.01
"""Between radii of one image in different batches, whose sums are rounded otherwise; L2, pixels in [0,1]."""


@dataclass(frozen=True)
class Subject:
    """A model that takes FP32 images of one size."""

    name: str
    shape: tuple[int, int, int]
    """[C, H, W]."""
    images: Float32Array
    """[M, C, H, W] in [0,1], whose radii are positive, for valid requests."""
    run: Runner
    """What the model answers with, in this process."""
    tiers: tuple[str, ...]
    """Names of the models beside it whose answers take votes and come once."""
    radius_tiers: tuple[str, ...]
    """Those of them that are asked about a radius."""

    def radii(self, images: Float32Array) -> NDArray[np.float32]:
        """The certified radii of valid images, [N]."""
        found: NDArray[np.float32] = np.asarray(self.run(images)[CERTIFIED], np.float32)
        return found

    def problem(self, served: NDArray[np.float32], images: Float32Array | None) -> str | None:
        """What is wrong with an answer that has a positive radius; None: nothing.

        Args:
            served: radii of the answer.
            images: what the request holds, [N, C, H, W]; None: it is none that the contract allows.
        """
        if images is None or not is_valid(images):
            return "a positive radius on invalid input"
        if served.shape != (len(images),):
            return "radii of another number of images"
        if np.max(served - self.radii(images)) > _TOLERANCE:
            return "a larger radius than the graph's"
        return None


def is_valid(images: Float32Array) -> bool:
    """Whether the contract takes these pixels."""
    return bool(len(images) and np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1)


def subject_of(model: ModelVersion, images: Float32Array, kinds: Iterable[TierModel] = ()) -> Subject:
    """The model, its tiers of these kinds, and those of the images that have a positive radius.

    Raises:
        HeatserveError: it takes something else than FP32 images of one size, or none of the images has a radius.
    """
    if model.card.input_type != "FP32" or model.card.resize:
        raise HeatserveError(
            f"{model.name}: expected a model that takes FP32 images of one size, got one of {model.card.input_type}; "
            "name another one"
        )
    run = open_served(model)
    kept = images[np.asarray(run(images)[CERTIFIED]) > 0]
    if not len(kept):
        raise HeatserveError(f"{model.name}: expected positive radii, got none on {len(images)} images; calibrate it")
    chosen = [kind for kind in kinds if kind is not TierModel.CERTIFY_STREAM]
    tiers = tuple(kind.beside(model.name) for kind in chosen)
    radius_tiers = tuple(kind.beside(model.name) for kind in chosen if kind.asks_radius)
    return Subject(model.name, model.card.input_shape, kept, run, tiers, radius_tiers)
