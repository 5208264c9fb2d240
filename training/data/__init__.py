"""The data sets that heatserve knows, each cut into three splits that share no image, and their augmentation.

    from heatserve.training.data import load_data

    images, labels = load_data("digits", "test").arrays()

Importing this package needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.training.data.augmentation import Augmentation
    from heatserve.training.data.cifar10 import CIFAR10_CLASSES
    from heatserve.training.data.decoding import decode, decoded_size
    from heatserve.training.data.errors import DataError
    from heatserve.training.data.images import Batch, FileImages, Images, ImageShape, TensorImages
    from heatserve.training.data.sources import DATA_SETS
    from heatserve.training.data.splits import SPLITS, ImageData, describe_data, load_data

__all__ = [
    "Augmentation",
    "Batch",
    "CIFAR10_CLASSES",
    "DATA_SETS",
    "DataError",
    "FileImages",
    "ImageData",
    "ImageShape",
    "Images",
    "SPLITS",
    "TensorImages",
    "decode",
    "decoded_size",
    "describe_data",
    "load_data",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Augmentation": "heatserve.training.data.augmentation",
        "Batch": "heatserve.training.data.images",
        "CIFAR10_CLASSES": "heatserve.training.data.cifar10",
        "DATA_SETS": "heatserve.training.data.sources",
        "DataError": "heatserve.training.data.errors",
        "FileImages": "heatserve.training.data.images",
        "ImageData": "heatserve.training.data.splits",
        "ImageShape": "heatserve.training.data.images",
        "Images": "heatserve.training.data.images",
        "SPLITS": "heatserve.training.data.splits",
        "TensorImages": "heatserve.training.data.images",
        "decode": "heatserve.training.data.decoding",
        "decoded_size": "heatserve.training.data.decoding",
        "describe_data": "heatserve.training.data.splits",
        "load_data": "heatserve.training.data.splits",
    },
)
