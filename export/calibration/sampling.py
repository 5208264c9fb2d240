"""Which images of a data set a calibration is made on, and which its figures, or an audit, are measured on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.export.card import Card

if TYPE_CHECKING:
    from heatserve.training.data.images import Images
from heatserve.export.images import LabelledImages


def sample(
    dataset: str, split: str, *, root: Path | None = None, count: int | None = None, seed: int = 0
) -> LabelledImages:
    """At most `count` images of a split, by a permutation that `seed` decides. Needs torch, to load the data.

    Raises:
        DataError: no such data set or split.
    """
    from heatserve.training.data.splits import load_data

    source = load_data(dataset, split, root)
    chosen = np.random.default_rng(seed).permutation(len(source))[:count]
    return LabelledImages(
        *source.arrays(chosen.tolist()),
        dataset=dataset,
        split=split,
        seed=seed,
        picture=_pictures(source.images, chosen),
    )


def _pictures(images: Images, chosen: NDArray[np.int64]) -> Callable[[int], NDArray[np.uint8]] | None:
    from heatserve.training.data.images import FileImages, TensorImages

    if not isinstance(images, FileImages | TensorImages):
        return None
    return lambda index: images.picture(int(chosen[index]))


def check_classes(card: Card, dataset: str, *, root: Path | None = None) -> None:
    """Refuse a data set with other classes than the model's, or in another order: its labels would mean nothing.

    Raises:
        HeatserveError: the classes differ; names the first that does.
        DataError: no such data set.
    """
    from heatserve.training.data.splits import describe_data

    class_names, _ = describe_data(dataset, root)
    if class_names != card.class_names:
        pairs = zip_longest(card.class_names, class_names, fillvalue="none")
        index, (expected, found) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise HeatserveError(
            f"{dataset}: expected the {len(card.class_names)} classes of model {card.model}, got {len(class_names)}; "
            f"class {index} is {expected!r} there, {found!r} here"
        )
