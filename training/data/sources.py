"""Where images come from: the training and test images of each data set, before calibration images are set aside."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from heatserve.training.data.cifar10 import CIFAR10_CLASSES, read_cifar10
from heatserve.training.data.colours import Decoded
from heatserve.training.data.images import (
    DataError,
    FileImages,
    Images,
    ImageShape,
    TensorImages,
    common_size,
    list_folder,
)
from heatserve.training.data.resizing import resize_and_crop
from heatserve.training.torchvision_import import import_torchvision

DATA_SETS = ("digits", "cifar10", "imagenet", "imagefolder:PATH")
DIGITS_CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class Pool:
    """The test images, or all others in an `order` of which the first `calibration` are set aside.

    `order` holds indices of `images`, each of the pool's images once, in a fixed pseudo-random order.
    """

    images: Images
    order: Sequence[int]
    class_names: tuple[str, ...]
    input_shape: ImageShape
    calibration: int


def find_source(name: str, root: Path | None) -> Callable[[str], Pool]:
    """The function that reads the `test` images of a data set, or by `train` those of its other two splits.

    Raises:
        DataError: an unknown name, or a missing folder.
    """
    kind, _, path = name.partition(":")
    if name == "digits":
        return _digits
    if kind == "imagefolder" and path:
        return partial(_imagefolder, Path(path))
    rooted = {"cifar10": _cifar10, "imagenet": _imagenet}
    if name not in rooted:
        raise DataError(f"data: expected one of {', '.join(DATA_SETS)}, got {name!r}")
    if root is None:
        raise DataError(f"root: {name} needs the folder that holds it, got none")
    if not root.is_dir():
        raise DataError(f"root: expected the folder that holds {name}, but {root} is not a folder")
    return partial(rooted[name], root)


def pseudo_random_order(keys: Sequence[bytes], purpose: str) -> list[int]:
    """A fixed pseudo-random order of `keys`, independent for each purpose."""
    salt = f"heatserve {purpose}".encode()
    return sorted(range(len(keys)), key=lambda i: hashlib.sha256(salt + keys[i]).digest())


def _calibration_size(count: int) -> int:
    return min(5000, count // 10)


def _digits(part: str) -> Pool:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    pixels = values.astype(np.uint8).reshape(-1, 1, 8, 8)
    images = TensorImages(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), scale=16)
    compared, unseen = _digits_by_use(_pixel_keys(images))
    test, calibration = unseen[:400], unseen[400:]
    order = test if part == "test" else [*calibration, *compared]
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


def _cifar10(root: Path, part: str) -> Pool:
    pixels, labels = read_cifar10(root, part)
    images = TensorImages(torch.from_numpy(pixels), torch.from_numpy(labels))
    order = pseudo_random_order(_pixel_keys(images), "calibration")
    return Pool(images, order, CIFAR10_CLASSES, (3, 32, 32), _calibration_size(len(images)))


def _pixel_keys(images: TensorImages) -> list[bytes]:
    return [image.tobytes() for image in images.pixels.numpy()]


def _imagefolder(root: Path, part: str) -> Pool:
    class_names, paths, labels = list_folder(root / part)
    expected = class_names  # a user who only measures needs no training images
    if (root / "train").is_dir():
        expected, _, _ = list_folder(root / "train")
    if class_names != expected:
        odd = sorted(set(class_names) ^ set(expected))
        raise DataError(f"{root}: expected the same classes in train and test, but {', '.join(odd)} is in one only")
    keys = [os.fsencode(path.relative_to(root / part).as_posix()) for path in paths]
    images = FileImages(paths, labels, _unchanged)
    order = pseudo_random_order(keys, "calibration")
    return Pool(images, order, class_names, (3, *common_size(paths)), _calibration_size(len(paths)))


def _imagenet(root: Path, part: str) -> Pool:
    folder = "val" if part == "test" else "train"
    if not (root / folder).is_dir():
        raise DataError(f"{root / folder}: no such folder; expected ImageNet as torchvision unpacks it (train, val)")
    try:
        found = import_torchvision("datasets").ImageNet(str(root), split=folder)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{root}: expected ImageNet as torchvision's loader unpacks it: {error}") from None
    paths, labels = (tuple(values) for values in zip(*found.samples, strict=True))
    class_names = tuple(", ".join(synonyms) for synonyms in found.classes)
    keys = [str(path)[len(str(root)) :].encode() for path in paths]
    images = FileImages(tuple(map(Path, paths)), labels, _resize_and_crop)
    order = pseudo_random_order(keys, "calibration")
    return Pool(images, order, class_names, (3, 224, 224), _calibration_size(len(paths)))


def _unchanged(pixels: Decoded) -> Decoded:
    return pixels


def _resize_and_crop(pixels: Decoded) -> Decoded:
    """Shorter side to 256 pixels, then the centre 224×224, as every ImageNet evaluation does."""
    return resize_and_crop(pixels, resize=256, crop=224)
