"""Which images of a data set a calibration is made on, and which its figures, or an audit, are measured on."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.export.card import Card
from heatserve.export.images import LabelledImages, LabelledPictures, PicturesAt, SampledImages
from heatserve.export.repository.layout import ModelVersion

FIGURES_SHARE = 0.5
"""Largest share of a test split that a card's figures are measured on: an audit needs images that they did not use."""


def sample(
    dataset: str,
    split: str,
    *,
    root: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    first: int = 0,
    largest_share: float = 1.0,
) -> LabelledImages:
    """Images of a split, by a permutation that `seed` decides. Needs torch, to load the data.

    Args:
        dataset: see `heatserve.training.data.load_data`.
        split: `train`, `calibration` or `test`.
        root: folder of the data set, for those that have one.
        count: at most so many images; None: all.
        seed: decides the permutation.
        first: how many images of the permutation are left out before them.
        largest_share: at most this share of the split's images.

    Raises:
        DataError: no such data set or split.
        HeatserveError: no image comes after the first `first`.
    """
    from heatserve.training.data import load_data

    data = load_data(dataset, split, root)
    chosen = _chosen(f"{dataset}, split {split!r}", len(data), count, seed, first, largest_share)
    return LabelledImages(*data.arrays(chosen.tolist()), dataset, split, seed, first, len(data))


def sample_for(
    model: ModelVersion,
    dataset: str,
    split: str,
    *,
    root: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    first: int = 0,
    largest_share: float = 1.0,
) -> SampledImages:
    """What `sample` draws, in the form that a model takes: those of a model that resizes are pictures, not decoded yet.

    Raises:
        DataError: no such data set or split.
        HeatserveError: no image comes after the first `first`, or a data set whose pictures are not known as they are
            stored.
    """
    if not model.card.resize:
        return sample(dataset, split, root=root, count=count, seed=seed, first=first, largest_share=largest_share)
    from heatserve.training.data import FileImages, TensorImages, load_data

    images = load_data(dataset, split, root).images
    if not isinstance(images, FileImages | TensorImages):
        raise HeatserveError(f"{dataset}: expected pictures for a model that resizes them, got images only")
    chosen = _chosen(f"{dataset}, split {split!r}", len(images), count, seed, first, largest_share)
    labels = np.asarray(images.labels, dtype=np.int64)[chosen]
    return LabelledPictures(
        PicturesAt(images.picture, tuple(chosen.tolist())), labels, dataset, split, seed, first, len(images)
    )


def _chosen(
    named: str, images: int, count: int | None, seed: int, first: int, largest_share: float
) -> NDArray[np.int64]:
    """Indices of the images drawn, out of `images`."""
    if not images:
        raise HeatserveError(f"{named}: expected images, got none; of fewer than 10 pictures none is set aside")
    if not 0 <= first < images:
        raise HeatserveError(f"{named}: expected fewer images to leave out than the {images} that it has, got {first}")
    largest = int(largest_share * images)
    if not largest:
        raise HeatserveError(f"{named}: expected enough images to leave some for an audit, got {images - first}")
    return np.random.default_rng(seed).permutation(images)[first:][: largest if count is None else min(count, largest)]


def check_classes(card: Card, dataset: str, *, root: Path | None = None) -> None:
    """Refuse a data set with other classes than the model's, or in another order: its labels would mean nothing.

    Raises:
        HeatserveError: the classes differ; names the first that does.
        DataError: no such data set.
    """
    from heatserve.training.data import describe_data

    class_names, _ = describe_data(dataset, root)
    if class_names != card.class_names:
        pairs = zip_longest(card.class_names, class_names, fillvalue="none")
        index, (expected, found) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise HeatserveError(
            f"{dataset}: expected the {len(card.class_names)} classes of model {card.model}, got {len(class_names)}; "
            f"class {index} is {expected!r} there, {found!r} here"
        )
