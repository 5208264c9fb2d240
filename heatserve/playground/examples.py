"""Test images for the page: digits of scikit-learn, and CIFAR-10 where its folder is given."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from heatserve.playground.refusals import Refused
from heatserve.playground.wire import Image

_EACH = 2
_LOOKED_AT = 200  # the first images of the test split, which come in random order
_DATA = {(1, 8, 8): "digits", (3, 32, 32): "cifar10"}


@dataclass(frozen=True)
class Example:
    """A test image and the name of its true class."""

    class_name: str
    image: Image


class Examples:
    """Test images by the shape that a model takes, read when they are first asked for."""

    def __init__(self, root: Path | None) -> None:
        """Describe them; `root` is the folder of CIFAR-10, if there is one."""
        self._root = root
        self._known = dict[tuple[int, int, int], list[Example]]()

    def missing(self, shape: tuple[int, int, int]) -> str | None:
        """Why there are none for a model that takes this shape [C, H, W], and what to do; None: there are."""
        data = _DATA.get(shape)
        if data is None:
            return "There are no examples for images of this size: drop a picture of your own."
        if find_spec("torch") is None or find_spec("sklearn") is None:
            return "Examples need more packages where this page runs: pip install 'heatserve[train]'."
        if data == "cifar10" and self._root is None:
            return "For pictures of CIFAR-10, start the playground with --root FOLDER; or drop one of your own."
        return None

    def of(self, shape: tuple[int, int, int]) -> list[Example]:
        """Some test images of each class.

        Raises:
            Refused: see `missing`.
            DataError: the folder is not that of the data set. Names it.
        """
        if sentence := self.missing(shape):
            raise Refused(404, sentence)
        if shape not in self._known:
            self._known[shape] = self._read(_DATA[shape])
        return self._known[shape]

    def _read(self, data: str) -> list[Example]:
        from heatserve.training.data.splits import load_data

        found = load_data(data, "test", self._root)
        images, labels = found.arrays(range(min(_LOOKED_AT, len(found))))
        chosen = [index for label in range(len(found.class_names)) for index in np.flatnonzero(labels == label)[:_EACH]]
        return [Example(found.class_names[labels[index]], images[index]) for index in chosen]
