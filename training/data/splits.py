"""The data sets and their three splits.

No image is used twice: `train` fits the network, `calibration` the certificate, `test` measures both. Where a data
set has an official test set, that is `test`, and `calibration` is carved out of the training images (5000 of them, or
10 % of fewer than 50 000), unless a folder has calibration images of its own. The digits have no test set: 900 images
are `train`, 497 `calibration`, 400 `test`. Recipes were once compared by their calibrations and figures on the 900; the
other 897 were the training images then, and no network had been calibrated or tested on them.

Which training image is a calibration image is decided by a keyed hash of its pixels, and so is all of the cut of the
digits: a fixed pseudo-random permutation that depends neither on the order nor on the layout of the files. So a picture
that is in a folder several times is in one split only (see `folder_cut`). Every split comes in such an order, so its
first n images are a random subset of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from heatserve.certification.class_names import class_names_problem
from heatserve.certification.progress import Progress, unseen
from heatserve.training.data.cifar10 import CIFAR10_CLASSES
from heatserve.training.data.errors import DataError
from heatserve.training.data.images import Batch, Images, ImageShape
from heatserve.training.data.sources import DIGITS_CLASSES, find_folder, find_source

SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True)
class ImageData:
    """One split of one data set. `images` is a torch Dataset of (float32 [C, H, W] in [0,1], label)."""

    name: str
    split: str
    images: Images
    class_names: tuple[str, ...]
    input_shape: ImageShape
    notes: tuple[str, ...] = ()
    """What a user has to know of how a folder was read, a line each."""
    pixels_sha256: str | None = None
    """Of the `train` split of a folder of pictures: SHA-256 of all pixels in it. It changes where the folder is cut in
    another way than before, since pictures were added, removed or changed."""

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
        """Every image once, in batches of `batch_size` or nearly; shuffled by `generator` if there is one.

        Batches of even size, as many as `batch_count` says: a batch of a single image would give BatchNorm nothing to
        normalise by. The first `skip` batches are left out without reading them; `share` takes from a batch of indices
        those to read.
        """
        count = len(self)
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        return self.images.batches(
            [share(batch) for batch in order.tensor_split(batch_count(count, batch_size))[skip:]]
        )


def batch_count(images: int, batch_size: int) -> int:
    """The number of batches of at most `batch_size` images, none of which has fewer than two unless all have one."""
    fewest = -(-images // batch_size)
    return fewest if batch_size == 1 else max(1, min(fewest, images // 2))


def load_data(name: str, split: str, root: Path | None = None, *, progress: Progress = unseen) -> ImageData:
    """One split of a data set.

    Args:
        name: `digits` (scikit-learn's 1797 8×8 digits); `cifar10` (`root` holds {train,test}/<class>/<file>, or
            torchvision's cifar-10-batches-py); `imagenet` (`root` holds {train,val}/<class>/<file>, read at 224×224);
            `imagefolder:PATH` (PATH/{train,test}/<class>/<file> or PATH/<class>/<file>; `root` is not used, and `test`
            can be read without `train`). The last two take options, such as `imagefolder:PATH?resize=64&crop=56`:
            see `FolderOptions`.
        split: `train`, `calibration` or `test`; see the module's docstring for how they are cut.
        root: the folder of the data set, for `cifar10` and `imagenet`.
        progress: follows the decoding of a folder's pictures, which is done once.

    Raises:
        DataError: an unknown name, option or split, a missing folder, an empty class, an unreadable image, unequal
            sizes without the option `resize`, or names of classes that are none (`class_names_problem`).
    """
    if split not in SPLITS:
        raise DataError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    pool = find_source(name, root, progress)(split)
    order = pool.order
    if split != "test":
        order = order[: pool.calibration] if split == "calibration" else order[pool.calibration :]
    if problem := class_names_problem(pool.class_names):
        raise DataError(f"{name}: {problem}")
    if not order and split != "calibration":
        raise DataError(f"{name}: expected images to {'train with' if split == 'train' else 'test'}, got none")
    pixels_sha256 = pool.pixels_sha256 if split == "train" else None
    images = pool.images.subset(order)
    return ImageData(name, split, images, pool.class_names, pool.input_shape, pool.notes, pixels_sha256)


def describe_data(name: str, root: Path | None = None) -> tuple[tuple[str, ...], ImageShape]:
    """Class names and input shape [C, H, W]; no file is read where the name of the data set decides them."""
    known = {"digits": (DIGITS_CLASSES, (1, 8, 8)), "cifar10": (CIFAR10_CLASSES, (3, 32, 32))}
    return known[name] if name in known else find_folder(name, root).describe()
