"""CIFAR-10 from a folder of images or from torchvision's own files, as one array of bytes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from heatserve.certification.files import write_atomically
from heatserve.training.data.decoding import decode, to_bytes
from heatserve.training.data.errors import DataError
from heatserve.training.data.folders import empty_class, list_pictures
from heatserve.training.data.images import common_size
from heatserve.training.torchvision_import import import_torchvision

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@lru_cache(maxsize=2)  # `train` and `calibration` are cut from the same 50 000 images
def read_cifar10(root: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The official `part` ("train" or "test"): uint8 [N, 3, 32, 32] and int64 [N].

    Raises:
        DataError: neither layout is there, another set of classes, an unreadable image or one that is not 32×32.
    """
    if (root / "cifar-10-batches-py").is_dir():
        return _read_batches(root, part)
    if not (root / part).is_dir():
        raise DataError(f"{root}: expected {part}/<class>/<image> or cifar-10-batches-py in it, found neither")
    found = list_pictures(root / part)
    if found.class_folders != CIFAR10_CLASSES:
        raise DataError(
            f"{root / part}: expected the classes {', '.join(CIFAR10_CLASSES)}, got {', '.join(found.class_folders)}"
        )
    if found.empty:
        raise empty_class(found.folder, found.empty[0])
    labels = np.array([CIFAR10_CLASSES.index(name) for name in found.classes], np.int64)
    return _decode_once(root / f".heatserve-{part}.npz", found.paths), labels


def _read_batches(root: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        found = import_torchvision("datasets").CIFAR10(str(root), train=part == "train")
    except (RuntimeError, OSError) as error:
        raise DataError(f"{root / 'cifar-10-batches-py'}: torchvision cannot read it: {error}") from None
    return np.ascontiguousarray(found.data.transpose(0, 3, 1, 2)), np.asarray(found.targets, np.int64)


def _decode_once(cache: Path, paths: Sequence[Path]) -> npt.NDArray[np.uint8]:
    """Decode all files, or read what an earlier call decoded; 50 000 small files take a quarter of a minute."""
    fingerprint = _fingerprint(paths)
    try:
        with np.load(cache) as stored:
            if str(stored["fingerprint"]) == fingerprint:
                return np.asarray(stored["pixels"], np.uint8)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        pass  # no cache yet, or a damaged one: decode again
    if common_size(paths) != (32, 32):
        raise DataError(f"{paths[0]}: expected 32×32 pixels")
    pixels = np.stack([to_bytes(decode(path)) for path in paths]).transpose(0, 3, 1, 2)
    content = io.BytesIO()
    np.savez(content, fingerprint=np.asarray(fingerprint), pixels=pixels)
    with suppress(OSError):  # a read-only folder costs the next start some seconds, nothing else
        write_atomically(cache, content.getvalue())
    return np.ascontiguousarray(pixels)


def _fingerprint(paths: Sequence[Path]) -> str:
    """Changes when a file is added, removed, renamed or rewritten."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path.parent.name}/{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
