"""What votes have proven of pictures: kept here, so that no page says of a picture what was proven of another one."""

from __future__ import annotations

import hashlib
from typing import Any

from heatserve.playground.wire import Image

_PICTURES = 256
"""That proofs are kept of: those of which most was proven last."""

Record = dict[str, Any]


class Proofs:
    """The best proof of each picture, of one model in one version."""

    def __init__(self) -> None:
        """None yet."""
        self._best = dict[bytes, Record]()

    def add(self, image: Image, record: Record) -> None:
        """Keep what a tier proved of a picture, where it is more than was known."""
        key, best = _key(image), self.best(image)
        if record["proven_radius"] > (best["proven_radius"] if best else 0):
            self._best.pop(key, None)
            self._best[key] = record
        if len(self._best) > _PICTURES:
            del self._best[next(iter(self._best))]

    def best(self, image: Image) -> Record | None:
        """The record with the largest proven radius; None: nothing is proven of this picture."""
        return self._best.get(_key(image))


def _key(image: Image) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
