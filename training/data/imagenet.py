"""ImageNet-1k as it is unpacked, with or without its devkit, which knows the names of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from heatserve.training.data.errors import DataError
from heatserve.training.data.folder_options import FolderOptions
from heatserve.training.data.folder_source import FolderSource
from heatserve.training.data.folders import Layout
from heatserve.training.torchvision_import import import_torchvision

_FOLDERS = {"train": "train", "test": "val"}
_META, _DEVKIT = "meta.bin", "ILSVRC2012_devkit_t12.tar.gz"


def imagenet_source(root: Path, options: FolderOptions) -> FolderSource:
    """ImageNet's pictures, shorter side to 256 pixels and the centre 224×224, unless the options say otherwise.

    The folders are named by WordNet's identifiers. Their classes are named by `options.classes`, or by torchvision's
    `meta.bin` or the devkit where one lies in `root`; else as the folders.

    Raises:
        DataError: neither `train` nor `val` is there.
    """
    if options.resize is None:
        options = replace(options, resize=256, crop=224)
    parts = {split: root / name for split, name in _FOLDERS.items() if (root / name).is_dir()}
    if not parts:
        raise DataError(f"{root / 'val'}: no such folder; expected ImageNet as it is unpacked, {{train,val}}/<class>/…")
    return FolderSource(root, Layout(parts, (), {}), options, partial(_names, root))


def _names(root: Path, folders: tuple[str, ...]) -> Mapping[str, str]:
    """The names that the devkit has of the classes in folders; none where there is no devkit."""
    if not (root / _META).is_file() and not (root / _DEVKIT).is_file():
        return {}
    imagenet = import_torchvision("datasets.imagenet")
    try:
        if not (root / _META).is_file():
            imagenet.parse_devkit_archive(str(root))
        names, _ = imagenet.load_meta_file(str(root))
    except Exception as error:  # a damaged archive or pickle raises anything
        raise DataError(f"{root}: torchvision cannot read ImageNet's devkit in it: {error}") from None
    return {folder: ", ".join(names[folder]) for folder in folders if folder in names}
