"""Which picture of a folder belongs to which split: by its pixels, so that no picture is in two of them.

A picture that is there several times, in whatever files and folders, is in one split: in `test` if the user put it
there, or else in `calibration` if the user put it there, or else where a hash of its pixels and of a seed puts it.
`train` keeps all its copies; what is cut from a folder for `calibration` or `test` has one of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatserve.training.data.pools import calibration_size, pseudo_random_order

Indices = list[int]


@dataclass(frozen=True)
class Cut:
    """Indices of the pictures of each split, in a fixed pseudo-random order."""

    train: Indices
    calibration: Indices
    test: Indices
    elsewhere: Mapping[str, int]
    """How many pictures were left out of each split, since an earlier one of test, calibration and train has them."""
    copies: int
    """How many copies were left out of what was cut for `calibration` and `test`."""


def cut(
    pixels: NDArray[np.uint64],
    labels: NDArray[np.int64],
    given: Mapping[str, Indices],
    *,
    seed: int,
    test_share: float,
) -> Cut:
    """Assign pictures to splits.

    Args:
        pixels: the digest of each picture's pixels, [N].
        labels: the class of each, [N].
        given: indices of the pictures that the user put into each split; `""`: into none.
        seed: decides what is cut by hash.
        test_share: share of each class of those in no split that become test images.
    """
    order = pseudo_random_order([pixel.tobytes() for pixel in pixels], f"calibration {seed}")
    rank = np.empty(len(pixels), np.int64)
    rank[order] = np.arange(len(pixels))

    def ordered(indices: Sequence[int]) -> Indices:
        return sorted(indices, key=rank.__getitem__)

    test, calibration, train = (ordered(given.get(split, [])) for split in ("test", "calibration", "train"))
    copies = 0
    if "" in given:
        test, train, copies = _cut_test(ordered(given[""]), pixels, labels, test_share)
    calibration, elsewhere_calibration = _without(calibration, test, pixels)
    train, elsewhere_train = _without(train, [*test, *calibration], pixels)
    if "calibration" not in given:
        calibration, train, more = _cut_calibration(train, pixels)
        copies += more
    return Cut(train, calibration, test, {"calibration": elsewhere_calibration, "train": elsewhere_train}, copies)


def _without(indices: Indices, others: Indices, pixels: NDArray[np.uint64]) -> tuple[Indices, int]:
    """Those whose pixels are not among the others', and how many are."""
    kept = np.asarray(indices, np.int64)[~np.isin(pixels[indices], pixels[others])].tolist()
    return kept, len(indices) - len(kept)


def _cut_calibration(indices: Indices, pixels: NDArray[np.uint64]) -> tuple[Indices, Indices, int]:
    """The first distinct pictures for `calibration`, the others for `train`, and the number of copies left out."""
    distinct = _distinct(indices, pixels)
    chosen = distinct[: calibration_size(len(distinct))]
    others, taken = _without(indices, chosen, pixels)
    return chosen, others, taken - len(chosen)


def _cut_test(
    indices: Indices, pixels: NDArray[np.uint64], labels: NDArray[np.int64], share: float
) -> tuple[Indices, Indices, int]:
    """The first distinct pictures of each class for `test`, the others for `train`, and the number of copies left out.

    A class of two pictures and more has one in each.
    """
    distinct = np.asarray(_distinct(indices, pixels), np.int64)
    chosen: Indices = []
    for label in np.unique(labels[distinct]):
        of_class = distinct[labels[distinct] == label].tolist()
        chosen += of_class[: min(max(1, round(share * len(of_class))), len(of_class) - 1)]
    places = {index: place for place, index in enumerate(distinct.tolist())}
    chosen.sort(key=places.__getitem__)
    others, taken = _without(indices, chosen, pixels)
    return chosen, others, taken - len(chosen)


def _distinct(indices: Indices, pixels: NDArray[np.uint64]) -> Indices:
    """The first of each picture's copies, in the same order."""
    _, first = np.unique(pixels[indices], return_index=True)
    return [indices[place] for place in np.sort(first)]
