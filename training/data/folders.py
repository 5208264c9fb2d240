"""A folder of pictures as it lies on disk: which folders are splits, which are classes, and what is no picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from heatserve.training.data.decoding import printable
from heatserve.training.data.errors import DataError

SPLIT_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "calibration": ("calibration",),
    "test": ("test", "testing", "val", "validation", "valid"),
}
"""The names of the folders that hold each split, in any case; where there are several, the first of them is read."""
UNSPLIT = ""
"""In place of a split: all pictures of a folder without split folders."""

_NO_PICTURES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
_NO_CLASSES = {"__macosx", "@eadir", "$recycle.bin", "system volume information"}
_LONGEST_NAME = 300
"""Characters of a path in a message."""
_TEXTS = {".csv", ".db", ".ini", ".json", ".log", ".md", ".tsv", ".txt", ".xml", ".yaml", ".yml"}


@dataclass(frozen=True)
class Layout:
    """The split folders of a folder. Without any, its own folders are the classes."""

    parts: Mapping[str, Path]
    """By split; empty where there are no split folders."""
    unread: tuple[str, ...]
    """Names of the folders beside them, such as `val` beside `test`."""
    passed_over: Mapping[str, int]
    """How many files beside them are no pictures of a class, by their names; see `Listing`."""


@dataclass(frozen=True)
class Listing:
    """The pictures below one folder that holds a folder for each class, by class and then by path."""

    folder: Path
    paths: tuple[Path, ...]
    classes: tuple[str, ...]
    """The class of each picture, as its folder is named."""
    class_folders: tuple[str, ...]
    """All class folders in alphabetical order, those that hold no picture among them."""
    passed_over: Mapping[str, int]
    """How many files are no pictures of a class, by their names, or by `*` and the suffix."""
    below: int
    """How many pictures lie in a folder below that of their class."""

    @property
    def empty(self) -> tuple[str, ...]:
        """The class folders that hold no picture."""
        filled = set(self.classes)
        return tuple(name for name in self.class_folders if name not in filled)


def empty_class(folder: Path, name: str) -> DataError:
    """What to say of a class folder in `folder` without a picture, where the class needs one."""
    return DataError(f"{folder / name}: the folder of class {name!r} is empty; expected image files")


def find_layout(root: Path) -> Layout:
    """The split folders of `root`: those that are named so and hold folders, one for each class.

    Raises:
        DataError: no such folder, two split folders whose names differ in case only, or split folders of which none
            holds a folder for each class.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected {{train,test}}/<class>/<image> or <class>/<image> in it")
    passed_over: Counter[str] = Counter()
    files, folders = _entries(root, passed_over)
    named: dict[str, list[Path]] = {}
    for split, names in SPLIT_FOLDERS.items():
        found = sorted((path for path in folders if path.name.lower() in names), key=lambda path: _rank(path, names))
        for first, second in pairwise(found):
            if first.name.lower() == second.name.lower():
                raise DataError(f"{root}: expected one folder of that name, got {first.name} and {second.name}")
        if found:
            named[split] = found
    parts = {split: next(filter(_holds_folders, paths), None) for split, paths in named.items()}
    read = {split: path for split, path in parts.items() if path is not None}
    if not read and (len(named) > 1 or len(folders) == len(named) == 1):
        flat = next(iter(named.values()))[0]
        raise DataError(f"{flat}: expected one folder of images for each class in it, found none")
    if not read and len(folders) == 1:
        raise DataError(f"{root}: expected {{train,test}} or a folder for each class, found {folders[0].name} alone")
    if not read:
        return Layout({}, (), {})
    for path in files:
        _is_noted(path, passed_over)
    return Layout(read, tuple(path.name for path in folders if path not in read.values()), passed_over)


def _rank(path: Path, names: tuple[str, ...]) -> int:
    return names.index(path.name.lower())


def _holds_folders(path: Path) -> bool:
    return bool(_entries(path, Counter())[1])


def _is_left_by_a_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NO_CLASSES


def list_pictures(folder: Path, *, nested: bool = False) -> Listing:
    """All pictures below `folder`.

    Args:
        folder: holds a folder for each class; what its class folders hold is read at any depth.
        nested: each folder that holds pictures is a class, named by its path below `folder`, such as `animals/cat`; by
            default the folders in `folder` itself are the classes.

    Raises:
        DataError: no such folder, no class folder in it, one that cannot be read, or a name that is no UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one folder of images for each class in it")
    found: list[tuple[str, Path]] = []
    class_folders: set[str] = set()
    passed_over: Counter[str] = Counter()
    below = loose = 0
    for place, files, is_leaf in _walk(folder, passed_over, each_class=not nested):
        pictures = [path for path in files if not _is_noted(path, passed_over)]
        relative = place.relative_to(folder)
        if place == folder:
            loose = len(pictures)
            passed_over.update(f"*{path.suffix.lower()}" for path in pictures)
            continue
        name = _class_name(folder, relative.as_posix() if nested else relative.parts[0])
        if not nested or pictures or is_leaf:
            class_folders.add(name)
        found += [(name, path) for path in pictures]
        below += len(pictures) if len(relative.parts) > 1 else 0
    if not class_folders:
        beside = f"; {loose} images lie in it directly, and no folder says of which class they are" if loose else ""
        raise DataError(f"{folder}: expected one folder of images for each class, found none{beside}")
    found.sort(key=lambda entry: (entry[0], os.fsencode(entry[1])))
    classes, paths = tuple(name for name, _ in found), tuple(path for _, path in found)
    return Listing(folder, paths, classes, tuple(sorted(class_folders)), passed_over, 0 if nested else below)


def _walk(folder: Path, passed_over: Counter[str], *, each_class: bool) -> Iterator[tuple[Path, list[Path], bool]]:
    """Each folder with its files, and whether it holds no other folder; one that a link leads back to, once.

    With `each_class`, one that several of the folders in `folder` lead to is read for each: a class whose folder is a
    link to another's has the same pictures.
    """
    identity = _identity(folder)
    files, classes = _entries(folder, passed_over)
    yield folder, files, not classes
    for waiting in [[path] for path in classes] if each_class else [classes]:
        visited = {identity}
        while waiting:
            place = waiting.pop()
            if _identity(place) in visited:
                continue
            visited.add(_identity(place))
            files, inner = _entries(place, passed_over)
            yield place, files, not inner
            waiting += inner


def _identity(folder: Path) -> tuple[int, int]:
    """What two paths to one folder share."""
    with _named(folder):
        status = folder.stat()
    return status.st_dev, status.st_ino


def _entries(place: Path, passed_over: Counter[str]) -> tuple[list[Path], list[Path]]:
    """The files and folders in a folder, in alphabetical order; files in folders of a system are only counted."""
    files: list[str] = []
    folders: list[str] = []
    with _named(place), os.scandir(place) as entries:
        for entry in entries:
            (folders if _is_folder(entry) else files).append(entry.name)
    for path in (place / name for name in folders if _is_left_by_a_system(name)):
        is_link = path.is_symlink()  # which may lead to any place of the machine
        passed_over[f"{path.name}/"] += 1 if is_link else sum(len(inside) for _, _, inside in os.walk(path))
    kept = [place / name for name in sorted(folders) if not _is_left_by_a_system(name)]
    return [place / name for name in sorted(files)], kept


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: no folder, and no picture either, which the reader of pictures will say
        return False


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Name the folder in errors of the system, such as that it may not be read."""
    try:
        yield
    except OSError as error:
        name = printable(folder)
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
        raise DataError(f"{shown}: expected a folder, but it cannot be read: {error.strerror}") from None


def _is_noted(path: Path, passed_over: Counter[str]) -> bool:
    """Whether a file is left by a system or describes pictures; if so, it is counted."""
    if path.name.startswith(".") or path.name.lower() in _NO_PICTURES:
        passed_over[path.name.strip()] += 1
    elif path.suffix.lower() in _TEXTS:
        passed_over[f"*{path.suffix.lower()}"] += 1
    else:
        return False
    return True


def _class_name(folder: Path, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{folder}: expected a class folder named in UTF-8, got {os.fsencode(name)!r}") from None
    return name
