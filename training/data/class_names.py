"""Names and order of classes from a file, for folders that are named by numbers or identifiers, such as ImageNet's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import read_text
from heatserve.training.data.errors import DataError


def named_folders(file: Path, folders: Collection[str]) -> dict[str, str]:
    """The name of the class of each folder, in the order of the labels; a name that two have says the folder as well.

    Args:
        file: UTF-8 text, a class a line: the folder, or the folder, a tab, blank or comma, and the name of the class
            (`n01440764 tench, Tinca tinca`). It may name classes of which there is no folder.
        folders: the class folders that are there; all must be in the file.

    Raises:
        DataError: no such file, no text, a folder that is not in it, or one that is there twice.
    """
    try:
        text = read_text(file, "class names, one a line")
    except HeatserveError as error:
        raise DataError(str(error)) from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [(line, line) for line in lines] if set(folders) <= set(lines) else [_divided(line) for line in lines]
    missing = sorted(set(folders) - {folder for folder, _ in named})
    if missing:
        raise DataError(
            f"{file}: expected all class folders, each on a line (FOLDER, or FOLDER and a name), but {missing[0]!r} is "
            f"not in it ({len(missing)} are not)"
        )
    twice = [folder for folder, count in Counter(folder for folder, _ in named).items() if count > 1]
    if twice:
        raise DataError(f"{file}: expected each class folder once, got {twice[0]!r} again")
    shared = Counter(name for _, name in named)
    return {folder: name if shared[name] == 1 else f"{name} ({folder})" for folder, name in named}


def _divided(line: str) -> tuple[str, str]:
    separator = r"\s*\t\s*" if "\t" in line else r"\s*,\s*|\s+"  # before a tab, a folder's name may have blanks
    folder, *rest = re.split(separator, line, maxsplit=1)
    return folder, rest[0] if rest and rest[0] else folder
