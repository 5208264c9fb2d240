"""How a user has a folder of pictures read: the options of `imagefolder:PATH?…` and `imagenet?…`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatserve.training.data.errors import DataError
from heatserve.training.named import NamedWithOptions, parse_named

_KINDS: Mapping[str, tuple[type, ...]] = {
    "resize": (int,),
    "crop": (int,),
    "channels": (int,),
    "classes": (str, int, float),
    "nested": (bool,),
    "skip_unreadable": (bool,),
    "split": (int,),
    "test_share": (int, float),
}


@dataclass(frozen=True)
class FolderOptions:
    """How a folder of pictures is read."""

    resize: int | None = None
    """Pixels of the shorter side, to which every picture is brought; None: all must have one size."""
    crop: int | None = None
    """Pixels of the square that is then cut out of the centre; None: `resize`."""
    channels: int = 3
    """C of the images: 3 for RGB, or 1 for grey, to which colours are turned."""
    classes: Path | None = None
    """File with the names and the order of the classes, see `named_folders`; None: the folders, by alphabet."""
    nested: bool = False
    """Whether each folder that holds pictures is a class; see `list_pictures`."""
    skip_unreadable: bool = False
    """Whether files that cannot be read are left out, and not an error."""
    split: int = 0
    """Seed of the hash that decides which pictures are calibration images, and in a folder without splits which are
    test images."""
    test_share: float = 0.2
    """Share of the pictures of each class that are test images in a folder without splits."""

    @property
    def window(self) -> tuple[int, int] | None:
        """`resize` and `crop` in pixels; None: pictures stay as they are."""
        return None if self.resize is None else (self.resize, self.crop or self.resize)


def folder_options(named: NamedWithOptions) -> FolderOptions:
    """The options in a name.

    Raises:
        DataError: an unknown option, or a value that it cannot have.
    """
    given: dict[str, Any] = dict(named.options)
    for option, value in given.items():
        if option not in _KINDS:
            raise DataError(f"{named}: expected options of {', '.join(_KINDS)}, got {option}")
        _check(named, option, value)
    if "crop" in given and "resize" not in given:
        raise DataError(f"{named}: expected resize beside crop, since a picture may be smaller than what is cut out")
    if "classes" in given:
        given["classes"] = Path(str(given["classes"]))
    options = FolderOptions(**given)
    if options.window and options.window[1] > options.window[0]:
        raise DataError(f"{named}: expected crop to be at most resize, {options.resize}, got {options.crop}")
    return options


def resize_of(dataset: str) -> int | None:
    """Pixels of the shorter side to which the pictures of a data set are brought, by its name; None: it has no such."""
    resize = dict(parse_named(dataset).options).get("resize")
    return resize if isinstance(resize, int) else None


def _check(named: NamedWithOptions, option: str, value: Any) -> None:
    kinds = _KINDS[option]
    is_of_kind = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if not is_of_kind:
        words = {bool: "true or false", int: "a whole number"}.get(kinds[0], "a file" if str in kinds else "a number")
        raise DataError(f"{named}: {option}: expected {words}, got {value!r}")
    if option in ("resize", "crop") and not 1 <= value <= 10_000:
        raise DataError(f"{named}: {option}: expected 1 to 10000 pixels, got {value}")
    if option == "channels" and value not in (1, 3):
        raise DataError(f"{named}: channels: expected 1 (grey) or 3 (RGB), got {value}")
    if option == "test_share" and not 0 < value < 1:
        raise DataError(f"{named}: test_share: expected a share above 0 and below 1, got {value}")
