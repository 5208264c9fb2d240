"""Where images come from: the training and test images of each data set, before calibration images are set aside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from heatserve.certification.progress import Progress, unseen
from heatserve.training.data.cifar10 import CIFAR10_CLASSES, read_cifar10
from heatserve.training.data.errors import DataError
from heatserve.training.data.folder_options import folder_options
from heatserve.training.data.folder_source import FolderSource
from heatserve.training.data.imagenet import imagenet_source
from heatserve.training.data.images import TensorImages
from heatserve.training.data.pools import Pool, calibration_size, pseudo_random_order
from heatserve.training.named import parse_named

DATA_SETS = ("digits", "cifar10", "imagenet", "imagefolder:PATH")
DIGITS_CLASSES = tuple("0123456789")


def find_source(name: str, root: Path | None, progress: Progress = unseen) -> Callable[[str], Pool]:
    """The function that reads what a split of a data set is cut from: the test images, or all others.

    Raises:
        DataError: an unknown name or option, or a missing folder.
    """
    if name == "digits":
        return _digits
    if name == "cifar10":
        return partial(_cifar10, _folder_of(name, root))
    return partial(find_folder(name, root).pool, progress=progress)


def find_folder(name: str, root: Path | None) -> FolderSource:
    """The source of `imagefolder:PATH` or `imagenet`, with options or without.

    Raises:
        DataError: another name, an unknown option, or a missing folder.
    """
    named = parse_named(name)
    kind, _, path = named.name.partition(":")
    if kind == "imagefolder" and path:
        return FolderSource.of(Path(path), folder_options(named))
    if named.name == "imagenet":
        return imagenet_source(_folder_of(named.name, root), folder_options(named))
    if named.name in ("digits", "cifar10"):
        raise DataError(f"data: expected {named.name} without options, got {name!r}")
    folder = path if kind == "imagefolder" else named.name
    hint = f"; for the pictures in that folder: imagefolder:{folder}" if folder and Path(folder).is_dir() else ""
    raise DataError(f"data: expected one of {', '.join(DATA_SETS)}, got {named.name!r}{hint}")


def _folder_of(name: str, root: Path | None) -> Path:
    if root is None:
        raise DataError(f"root: {name} needs the folder that holds it, got none")
    if not root.is_dir():
        raise DataError(f"root: expected the folder that holds {name}, but {root} is not a folder")
    return root


def _digits(split: str) -> Pool:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    pixels = values.astype(np.uint8).reshape(-1, 1, 8, 8)
    images = TensorImages(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), scale=16)
    compared, unseen = _digits_by_use(_pixel_keys(images))
    test, calibration = unseen[:400], unseen[400:]
    order = test if split == "test" else [*calibration, *compared]
    return Pool(images, order, DIGITS_CLASSES, (1, 8, 8), len(calibration))


def _digits_by_use(keys: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """The 900 digits on which recipes were once compared, and the 897 on which no network was calibrated or tested.

    The 900 are the test split of that time (300, by the hash "digits test") and its calibration split (600 of the
    others, by the hash "calibration"), the 897 its training split.
    """

    def ordered(indices: Sequence[int], purpose: str) -> list[int]:
        return [indices[i] for i in pseudo_random_order([keys[i] for i in indices], purpose)]

    first = ordered(range(len(keys)), "digits test")
    others = ordered(first[300:], "calibration")
    return first[:300] + others[:600], ordered(others[600:], "digits unseen")


def _cifar10(root: Path, split: str) -> Pool:
    pixels, labels = read_cifar10(root, "test" if split == "test" else "train")
    images = TensorImages(torch.from_numpy(pixels), torch.from_numpy(labels))
    order = pseudo_random_order(_pixel_keys(images), "calibration")
    return Pool(images, order, CIFAR10_CLASSES, (3, 32, 32), calibration_size(len(images)))


def _pixel_keys(images: TensorImages) -> list[bytes]:
    return [image.tobytes() for image in images.pixels.numpy()]
