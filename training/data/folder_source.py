"""From a folder of pictures to the pool that its splits are cut from, and to what its user has to know."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from heatserve.certification.progress import Progress, unseen
from heatserve.training.data import folder_notes as notes
from heatserve.training.data.class_names import named_folders
from heatserve.training.data.colours import Decoded
from heatserve.training.data.decoding import MAX_PIXELS, printable
from heatserve.training.data.errors import DataError
from heatserve.training.data.fingerprints import Fingerprints, fingerprints
from heatserve.training.data.folder_cut import cut
from heatserve.training.data.folder_options import FolderOptions
from heatserve.training.data.folders import UNSPLIT, Layout, Listing, empty_class, find_layout, list_pictures
from heatserve.training.data.images import FileImages, ImageShape, common_size, unequal_sizes
from heatserve.training.data.pools import Pool, pseudo_random_order
from heatserve.training.data.resizing import resize_and_crop


@dataclass(frozen=True)
class FolderSource:
    """Reads a folder of pictures, of which `layout` says where the splits are."""

    root: Path
    layout: Layout
    options: FolderOptions
    names_of: Callable[[tuple[str, ...]], Mapping[str, str]] | None = None
    """From class folders to the names of their classes, in the order of labels, unless `options.classes` has them;
    None: each is named as its folder."""

    @classmethod
    def of(cls, root: Path, options: FolderOptions) -> FolderSource:
        """The source of a folder.

        Raises:
            DataError: no such folder, or an option that does not go with what is in it.
        """
        layout = find_layout(root)
        if layout.parts and options.test_share != FolderOptions.test_share:
            raise DataError(f"{root}: test_share: expected a folder without splits, got {', '.join(layout.parts)}")
        return cls(root, layout, options)

    def pool(self, split: str, progress: Progress = unseen) -> Pool:
        """What a split is cut from: the `test` images, or those of the other two splits.

        Raises:
            DataError: a missing split, classes that differ, a class of `train` without pictures, an unreadable file,
                or pictures of several sizes that no option brings to one.
        """
        self._check_there(split)
        if split == "test" and self.layout.parts:
            return self._test_pool(progress)
        return self._cut_pool(split, progress)

    def describe(self) -> tuple[tuple[str, ...], ImageShape]:
        """Class names and input shape; no pixel is read.

        Raises:
            DataError: as `pool`, where the names and sizes of the files show it.
        """
        listing = self._listing(next((split for split in ("test", "train") if split in self.layout.parts), UNSPLIT))
        return tuple(self.class_names().values()), self.shape(listing.paths)

    def class_names(self, listing: Listing | None = None) -> dict[str, str]:
        """The name of the class of each class folder, in the order of labels: those of `train`, if there is one.

        `listing` is that of `train` or of a folder without splits, where it is known.
        """
        if listing is None:
            listing = self._listing(next((split for split in ("train", "test") if split in self.layout.parts), UNSPLIT))
        if self.options.classes is not None:
            return named_folders(self.options.classes, listing.class_folders)
        names = self.names_of(listing.class_folders) if self.names_of else {}
        return {folder: names.get(folder, folder) for folder in listing.class_folders}

    def shape(self, paths: Sequence[Path]) -> ImageShape:
        """C, H, W; of pictures that stay as they are by the headers of their files."""
        window = self.options.window
        return (self.options.channels, *((window[1], window[1]) if window else common_size(paths)))

    @property
    def prepare(self) -> Callable[[Decoded], Decoded]:
        """What brings every picture to one size."""
        window = self.options.window
        return partial(resize_and_crop, resize=window[0], crop=window[1]) if window else _unchanged

    def labels(self, listing: Listing, names: Mapping[str, str]) -> tuple[int, ...]:
        """The label of each picture.

        Raises:
            DataError: a class folder that is none of `names`.
        """
        odd = [folder for folder in listing.class_folders if folder not in names]
        if odd:
            lacking = [folder for folder in names if folder not in listing.class_folders]
            lacks = f", and lacks {', '.join(map(repr, lacking[:5]))}" if lacking else ""
            raise DataError(
                f"{listing.folder}: expected the same classes as in train, but it has {', '.join(map(repr, odd[:5]))} "
                f"as well{lacks}"
            )
        label_of = {folder: label for label, folder in enumerate(names)}
        return tuple(label_of[name] for name in listing.classes)

    def _listing(self, split: str) -> Listing:
        return list_pictures(self.layout.parts.get(split, self.root), nested=self.options.nested)

    def _check_there(self, split: str) -> None:
        parts, unread = self.layout.parts, self.layout.unread
        if not parts or split in parts or (split == "calibration" and "train" in parts):
            return
        beside = f"; {', '.join(unread)} beside it hold no class folders" if unread else ""
        folder, what = ("test", "test/, val/ or validation/") if split == "test" else ("train", "train/")
        raise DataError(
            f"{self.root / folder}: no such folder; expected {what} with a folder of images for each class{beside}. Of "
            f"a folder without splits, imagefolder:{next(iter(parts.values()))}, test images are cut by hash"
        )

    def _test_pool(self, progress: Progress) -> Pool:
        """The test images as the user gave them, in an order that their paths decide."""
        listing = self._listing("test")
        names = self.class_names(None if "train" in self.layout.parts else listing)
        labels, unreadable = self.labels(listing, names), dict[int, str]()
        if self.options.skip_unreadable:
            unreadable = fingerprints(self.root, listing.paths, skip_unreadable=True, progress=progress).unreadable
        keys = [os.fsencode(path.relative_to(listing.folder)) for path in listing.paths]
        order = [index for index in pseudo_random_order(keys, "calibration") if index not in unreadable]
        if not order:
            raise DataError(f"{listing.folder}: expected at least one picture, got none")
        said = notes.of_files(self.root, self.layout, [listing], listing.paths, unreadable)
        said += notes.of_classes(self.root, "test", names, {labels[index] for index in order})
        images = FileImages(listing.paths, labels, self.prepare, self.options.channels)
        shape = self.shape([listing.paths[index] for index in sorted(order)])
        return Pool(images, order, tuple(names.values()), shape, 0, said)

    def _cut_pool(self, split: str, progress: Progress) -> Pool:
        """What is cut by the pixels of all pictures of the folder."""
        listings = {split: self._listing(split) for split in self.layout.parts or (UNSPLIT,)}
        names = self.class_names(listings.get("train", listings.get(UNSPLIT)))
        labels = tuple(label for listing in listings.values() for label in self.labels(listing, names))
        paths = tuple(path for listing in listings.values() for path in listing.paths)
        found = fingerprints(self.root, paths, skip_unreadable=self.options.skip_unreadable, progress=progress)
        given: dict[str, list[int]] = {}
        first = 0
        for part, listing in listings.items():
            last = first + len(listing.paths)
            given[part] = [index for index in range(first, last) if index not in found.unreadable]
            first = last
        seed, share = self.options.split, self.options.test_share
        parts = cut(found.pixels, np.asarray(labels, np.int64), given, seed=seed, test_share=share)
        if split == "test" and not parts.test:
            raise _nothing_to_test(self.root, share, pictures=len(paths), classes=len(names))
        if split == "train":
            _check_filled(listings.get("train", listings.get(UNSPLIT)), names, {labels[index] for index in parts.train})
        said = notes.of_files(self.root, self.layout, list(listings.values()), paths, found.unreadable)
        for part, indices in (("calibration", parts.calibration), ("test", parts.test)):
            if part in listings or (part == "test" and not self.layout.parts):
                said += notes.of_classes(self.root, part, names, {labels[index] for index in indices})
        said += notes.of_cut(self.root, parts, paths, labels, found)
        return Pool(
            FileImages(paths, labels, self.prepare, self.options.channels),
            parts.test if split == "test" else [*parts.calibration, *parts.train],
            tuple(names.values()),
            self._shape_of(found, paths),
            len(parts.calibration),
            said,
            hashlib.sha256(np.unique(found.pixels[parts.train]).astype("<u8").tobytes()).hexdigest(),
        )

    def _shape_of(self, found: Fingerprints, paths: Sequence[Path]) -> ImageShape:
        """C, H, W of pictures that were decoded, and can be brought to it."""
        readable = [index for index in range(len(paths)) if index not in found.unreadable]
        sizes = found.sizes[readable]
        window = self.options.window
        if window:
            pixels = sizes.max(axis=1).astype(np.int64) * window[0] // sizes.min(axis=1) * window[0]
            if len(pixels) and pixels.max() > MAX_PIXELS:
                raise DataError(
                    f"{printable(paths[readable[pixels.argmax()]])}: expected a picture of at most {MAX_PIXELS} pixels "
                    f"after its resize, got {pixels.max()}: its sides differ too much"
                )
            return (self.options.channels, window[1], window[1])
        other = np.flatnonzero((sizes != sizes[:1]).any(axis=1))
        if len(other):
            index = readable[other[0]]
            height, width = found.sizes[index].tolist()
            raise unequal_sizes(paths[index], (height, width), paths[readable[0]], tuple(sizes[0].tolist()))
        return (self.options.channels, *sizes[0].tolist())


def _check_filled(listing: Listing | None, names: Mapping[str, str], filled: Collection[int]) -> None:
    """Refuse a class folder of which no picture can train."""
    for label, folder in enumerate(names):
        if listing is None or label in filled or folder not in listing.class_folders:
            continue
        if folder in listing.empty:
            raise empty_class(listing.folder, folder)
        raise DataError(
            f"{listing.folder / folder}: expected a picture to train with, got none that can be read and is no test or "
            "calibration image"
        )


def _nothing_to_test(root: Path, share: float, *, pictures: int, classes: int) -> DataError:
    """The error of a folder without splits that has too few pictures for a test image."""
    return DataError(
        f"{root}: expected images to test, got none: {share:.0%} of each class are cut for that, and at least one is "
        f"left to train with, but no class has two different ones (pictures in all: {pictures}, classes: {classes}); "
        "add pictures, or folders train/ and test/"
    )


def _unchanged(pixels: Decoded) -> Decoded:
    return pixels
