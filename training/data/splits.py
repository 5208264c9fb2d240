"""The data sets and their three splits.

No image is used twice: `train` fits the network, `calibration` the certificate, `test` measures both. Where a data
set has an official test set, that is `test`, and `calibration` is carved out of the training images (5000 of them, or
10 % of fewer than 50 000). The digits have none: 300 images are `test`, 600 `calibration`, 897 `train`.

Which training image is a calibration image is decided by a keyed hash of the image itself (of its path in the folder
for data sets that are read file by file): a fixed pseudo-random permutation that depends neither on the order nor on
the layout of the files. Every split comes in that order, so its first n images are a random subset of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from heatserve.training._torchvision import import_torchvision
from heatserve.training.data.cifar10 import CIFAR10_CLASSES, read_cifar10
from heatserve.training.data.images import Batch, DataError, FileImages, Images, TensorImages, common_size, list_folder

SPLITS = ("train", "calibration", "test")
NAMES = ("digits", "cifar10", "imagenet", "imagefolder:PATH")

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class ImageData:
    """One split of one data set. `images` is a torch Dataset of (float32 [C, H, W] in [0,1], label)."""

    name: str
    split: str
    images: Images
    class_names: tuple[str, ...]
    input_shape: Shape

    def __len__(self) -> int:
        return len(self.images)

    def arrays(self, indices: Sequence[int] | None = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """All images, or those at `indices`, as float32 [N, C, H, W] in [0,1] and int64 labels [N]."""
        chosen = torch.arange(len(self)) if indices is None else torch.as_tensor(indices, dtype=torch.int64)
        batches = list(self.images.batches(torch.split(chosen, 500)))
        if not batches:
            return np.empty((0, *self.input_shape), np.float32), np.empty(0, np.int64)
        images, labels = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
        return images, labels

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        skip: int = 0,
        share: Callable[[torch.Tensor], torch.Tensor] = lambda batch: batch,
    ) -> Iterator[Batch]:
        """Every image once, in batches of `batch_size` or one less; shuffled by `generator` if there is one.

        Batches of even size: a last batch of a single image would give BatchNorm nothing to normalise by. The first
        `skip` batches are left out without reading them; `share` takes from a batch of indices those to read.
        """
        count = len(self)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        return self.images.batches([share(batch) for batch in order.tensor_split(-(-count // batch_size))[skip:]])


def load_data(name: str, split: str, root: Path | None = None) -> ImageData:
    """One split of a data set.

    Args:
        name: `digits` (scikit-learn's 1797 8×8 digits); `cifar10` (`root` holds {train,test}/<class>/<file>, or
            torchvision's cifar-10-batches-py); `imagenet` (`root` as torchvision's ImageNet wants it, read at
            224×224); `imagefolder:PATH` (PATH/{train,test}/<class>/<file>, all of one size; `root` is not used, and
            `test` can be read without `train`).
        split: `train`, `calibration` or `test`; see the module's docstring for how they are cut.
        root: the folder of the data set, for `cifar10` and `imagenet`.

    Raises:
        DataError: an unknown name or split, a missing folder, an empty class, an unreadable image, unequal sizes.
    """
    if split not in SPLITS:
        raise DataError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    pool = _reader(name, root)("test" if split == "test" else "train")
    order = _permutation(pool.keys, "calibration")
    if split != "test":
        order = order[: pool.calibration] if split == "calibration" else order[pool.calibration :]
    return ImageData(name, split, pool.images.subset(order), pool.class_names, pool.input_shape)


def describe_data(name: str, root: Path | None = None) -> tuple[tuple[str, ...], Shape]:
    """Class names and input shape [C, H, W]; reads no file where the name alone decides them."""
    known = {"digits": (_DIGITS_CLASSES, (1, 8, 8)), "cifar10": (CIFAR10_CLASSES, (3, 32, 32))}
    if name in known:
        return known[name]
    data = load_data(name, "test", root)
    return data.class_names, data.input_shape


@dataclass(frozen=True)
class _Pool:
    """The official training or test images: `keys` identify them, `calibration` is how many are set aside."""

    images: Images
    keys: Sequence[bytes]
    class_names: tuple[str, ...]
    input_shape: Shape
    calibration: int


def _reader(name: str, root: Path | None) -> Callable[[str], _Pool]:
    kind, _, path = name.partition(":")
    if name == "digits":
        return _digits
    if kind == "imagefolder" and path:
        return partial(_imagefolder, Path(path))
    rooted = {"cifar10": _cifar10, "imagenet": _imagenet}
    if name not in rooted:
        raise DataError(f"data: expected one of {', '.join(NAMES)}, got {name!r}")
    if root is None:
        raise DataError(f"root: {name} needs the folder that holds it, got none")
    if not root.is_dir():
        raise DataError(f"root: expected the folder that holds {name}, but {root} is not a folder")
    return partial(rooted[name], root)


def _permutation(keys: Sequence[bytes], purpose: str) -> list[int]:
    """A fixed pseudo-random order of `keys`, independent for each purpose."""
    salt = f"heatserve {purpose}".encode()
    return sorted(range(len(keys)), key=lambda i: hashlib.sha256(salt + keys[i]).digest())


def _calibration_size(count: int) -> int:
    return min(5000, count // 10)


_DIGITS_CLASSES = tuple("0123456789")


def _digits(part: str) -> _Pool:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    pixels = values.astype(np.uint8).reshape(-1, 1, 8, 8)
    order = _permutation([image.tobytes() for image in pixels], "digits test")
    chosen = order[:300] if part == "test" else order[300:]
    images = TensorImages(torch.from_numpy(pixels[chosen]), torch.from_numpy(labels[chosen].astype(np.int64)), scale=16)
    return _Pool(images, _pixel_keys(images), _DIGITS_CLASSES, (1, 8, 8), calibration=600)


def _cifar10(root: Path, part: str) -> _Pool:
    pixels, labels = read_cifar10(root, part)
    images = TensorImages(torch.from_numpy(pixels), torch.from_numpy(labels))
    return _Pool(images, _pixel_keys(images), CIFAR10_CLASSES, (3, 32, 32), _calibration_size(len(images)))


def _pixel_keys(images: TensorImages) -> list[bytes]:
    return [image.tobytes() for image in images.pixels.numpy()]


def _imagefolder(root: Path, part: str) -> _Pool:
    class_names, paths, labels = list_folder(root / part)
    expected = list_folder(root / "train")[0] if (root / "train").is_dir() else class_names  # test images alone will do
    if class_names != expected:
        odd = sorted(set(class_names) ^ set(expected))
        raise DataError(f"{root}: expected the same classes in train and test, but {', '.join(odd)} is in one only")
    keys = [path.relative_to(root / part).as_posix().encode() for path in paths]
    images = FileImages(paths, labels, _unchanged)
    return _Pool(images, keys, class_names, (3, *common_size(paths)), _calibration_size(len(paths)))


def _imagenet(root: Path, part: str) -> _Pool:
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
    return _Pool(images, keys, class_names, (3, 224, 224), _calibration_size(len(paths)))


def _unchanged(image: Image.Image) -> Image.Image:
    return image


def _resize_and_crop(image: Image.Image) -> Image.Image:
    """Shorter side to 256 pixels, then the centre 224×224, as every ImageNet evaluation does."""
    transforms = import_torchvision("transforms")
    cropped: Image.Image = transforms.CenterCrop(224)(transforms.Resize(256)(image))
    return cropped
