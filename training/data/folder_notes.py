"""What a user has to know of how a folder of pictures was read, in sentences: a line each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from heatserve.certification.errors import first_of
from heatserve.training.data.decoding import printable
from heatserve.training.data.fingerprints import Fingerprints
from heatserve.training.data.folder_cut import Cut
from heatserve.training.data.folders import Layout, Listing
from heatserve.training.data.near_duplicates import near_duplicates

Notes = tuple[str, ...]

_REASONS = 5
"""Of more kinds of errors, the others are counted."""


def of_files(
    root: Path, layout: Layout, listings: Sequence[Listing], paths: Sequence[Path], unreadable: Mapping[int, str]
) -> Notes:
    """What is no picture of a split, or cannot be read, and pictures below the folder of their class."""
    found: list[str] = []
    if layout.unread:
        read = ", ".join(path.name for path in layout.parts.values())
        found.append(f"{root}: read {read}; not read: {first_of(layout.unread)}")
    passed_over = Counter(layout.passed_over)
    for listing in listings:
        passed_over.update(listing.passed_over)
    if passed_over.total():
        counts = [f"{count} {printable(name)}" for name, count in passed_over.most_common() if count]
        found.append(
            f"{root}: passed over files that hold no picture, {passed_over.total()} in all: {first_of(counts)}"
        )
    if unreadable:
        skipped = f"{root}: skipped {len(unreadable)} of {len(paths)} files that cannot be read"
        found.append("\n  ".join([f"{skipped}:", *_by_reason(list(unreadable.values()))]))
    below = sum(listing.below for listing in listings)
    if below:
        found.append(
            f"{root}: {_count(below, 'picture')} in folders below that of the class, which is the first in the split; "
            "nested=true makes each folder that holds pictures a class"
        )
    return tuple(found)


def of_classes(root: Path, split: str, names: Mapping[str, str], filled: Collection[int]) -> Notes:
    """Classes of which a split has no picture; `filled` are the labels of those it has."""
    lacking = [name for label, name in enumerate(names.values()) if label not in filled]
    if not lacking or not filled:
        return ()
    return (f"{root}: {split} has no picture of {len(lacking)} of {len(names)} classes: {first_of(lacking)}",)


def of_cut(root: Path, parts: Cut, paths: Sequence[Path], labels: Sequence[int], found: Fingerprints) -> Notes:
    """Pictures that are there several times, or nearly."""
    said = [
        f"{root}: left out of {split} {_count(count, 'picture')} that {others} has as well"
        for split, others in (("calibration", "test"), ("train", "test or calibration"))
        if (count := parts.elsewhere[split])
    ]
    if parts.copies:
        said.append(f"{root}: left out {parts.copies} further copies of calibration or test images")
    return *said, *_of_labels(root, parts, paths, labels, found), *_of_near(root, parts, paths, found)


def _of_labels(root: Path, parts: Cut, paths: Sequence[Path], labels: Sequence[int], found: Fingerprints) -> Notes:
    """One picture under several classes."""
    used = np.asarray([*parts.test, *parts.calibration, *parts.train], np.int64)
    order = used[np.argsort(found.pixels[used], kind="stable")]
    of_class = np.asarray(labels, np.int64)[order]
    twins = np.flatnonzero((found.pixels[order][1:] == found.pixels[order][:-1]) & (of_class[1:] != of_class[:-1]))
    if not len(twins):
        return ()
    pair = _pair(root, paths, int(order[twins[0]]), int(order[twins[0] + 1]))
    return (f"{root}: {_count(len(twins), 'picture')} under two classes, such as {pair}",)


def _of_near(root: Path, parts: Cut, paths: Sequence[Path], found: Fingerprints) -> Notes:
    """Pictures of `calibration` and `test` that look like one of `train`."""
    measured = [*parts.calibration, *parts.test]
    index, other = near_duplicates(found, measured, parts.train)
    if not len(index):
        return ()
    pair = _pair(root, paths, int(index[0]), int(other[0]))
    return (
        f"{root}: {len(index)} of {len(measured)} calibration and test images look like one of train, such as {pair}: "
        "near duplicates make figures and promise better than new pictures deserve",
    )


def _by_reason(errors: Sequence[str]) -> list[str]:
    """How many errors, which begin with the path of a file, give each reason, and one of each; numbers in it aside."""
    alike: dict[str, list[str]] = {}
    for error in errors:
        alike.setdefault(re.sub(r"\d+", "", error.partition(": ")[2]), []).append(error)
    most = sorted(alike.values(), key=len, reverse=True)
    said = [f"{len(same)} such as {same[0]}" if len(same) > 1 else same[0] for same in most[:_REASONS]]
    others = sum(map(len, most[_REASONS:]))
    return [*said, f"{others} for other reasons"] if others else said


def _pair(root: Path, paths: Sequence[Path], first: int, second: int) -> str:
    return " and ".join(printable(paths[index].relative_to(root)) for index in (first, second))


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
