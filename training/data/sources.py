"""Where images come from: the official training and test images of each data set, before they are cut into splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from heatserve.training.data.cifar10 import CIFAR10_CLASSES, read_cifar10
from heatserve.training.data.images import (
    DataError,
    FileImages,
    Images,
    ImageShape,
    TensorImages,
    common_size,
    list_folder,
)
from heatserve.training.torchvision_import import import_torchvision

DATA_SETS = ("digits", "cifar10", "imagenet", "imagefolder:PATH")
DIGITS_CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class Pool:
    """The official training or test images: `keys` identify them, `calibration` is how many are set aside."""

    images: Images
    keys: Sequence[bytes]
    class_names: tuple[str, ...]
    input_shape: ImageShape
    calibration: int


def find_source(name: str, root: Path | None) -> Callable[[str], Pool]:
    """The function that reads the official `train` or `test` images of a data set.

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
    order = pseudo_random_order([image.tobytes() for image in pixels], "digits test")
    chosen = order[:300] if part == "test" else order[300:]
    images = TensorImages(torch.from_numpy(pixels[chosen]), torch.from_numpy(labels[chosen].astype(np.int64)), scale=16)
    return Pool(images, _pixel_keys(images), DIGITS_CLASSES, (1, 8, 8), calibration=600)


def _cifar10(root: Path, part: str) -> Pool:
    pixels, labels = read_cifar10(root, part)
    images = TensorImages(torch.from_numpy(pixels), torch.from_numpy(labels))
    return Pool(images, _pixel_keys(images), CIFAR10_CLASSES, (3, 32, 32), _calibration_size(len(images)))


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
    keys = [path.relative_to(root / part).as_posix().encode() for path in paths]
    images = FileImages(paths, labels, _unchanged)
    return Pool(images, keys, class_names, (3, *common_size(paths)), _calibration_size(len(paths)))


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
    return Pool(images, keys, class_names, (3, 224, 224), _calibration_size(len(paths)))


def _unchanged(image: Image.Image) -> Image.Image:
    return image


def _resize_and_crop(image: Image.Image) -> Image.Image:
    """Shorter side to 256 pixels, then the centre 224×224, as every ImageNet evaluation does."""
    transforms = import_torchvision("transforms")
    cropped: Image.Image = transforms.CenterCrop(224)(transforms.Resize(256)(image))
    return cropped
