"""What an attack found, judged by the served graph: is there an image within a served radius of another class?

Distances are those of the pixels that are sent, in float64. What an attack found is brought back where rounding has put
it a little outside; for a model that takes bytes each pixel is rounded towards the image that is attacked, so that the
distance only shrinks. An answer that refuses an image is no other class.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.export.contract import INVALID_LABEL, Outputs
from heatserve.export.runtime.session import Runner, as_levels

_JUST_INSIDE = 1 - 1e-6
"""Of the radius: where what is outside of it is brought back to."""


@dataclass(frozen=True)
class Found:
    """Images that one attack ends with, for some of those that it was given."""

    attack: str
    rows: NDArray[np.int64]
    """[m], which of the images that were attacked."""
    images: Float32Array
    """[m, C, H, W] in [0,1], at any distance."""


class Attacker(Protocol):
    """What looks for images of another class, with gradients of its own; its word is not taken for anything."""

    @property
    def name(self) -> str:
        """What it is, and how hard it tries; results are kept by this name."""

    @property
    def batch(self) -> int:
        """Images that are attacked together, and whose results are kept together."""

    @property
    def processes(self) -> int:
        """Batches that are attacked side by side; above 1, it can be pickled."""

    def attack(self, images: Float32Array, labels: NDArray[np.int64], radii: Float64Array) -> Iterator[Found]:
        """Look within `radii` [N] of images [N, C, H, W] for another class than `labels` [N]."""

    def raise_radius(self, images: Float32Array, labels: NDArray[np.int64]) -> Float32Array:
        """Images [N, C, H, W] in [0,1] at any distance, which are answered with the same class and larger radii."""


@dataclass(frozen=True)
class Counterexample:
    """An image within the served radius of another, which is answered with another class."""

    attack: str
    start: str
    """The kind of image that the attack began at."""
    radius: float
    distance: float
    """L2, of the pixels as they are sent."""
    label: int
    other_label: int
    shape: tuple[int, ...]
    image: str
    """The one with the radius: float32 [C, H, W], little-endian, in base64."""
    other_image: str


@dataclass
class AttackedImage:
    """What is known of one image after attacks on it."""

    digest: str
    """SHA-256 of its float32 pixels."""
    start: str
    label: int
    radius: float
    nearest: float | None = None
    """L2 distance of the nearest image of another class that was found; None: none was."""
    nearest_by: str | None = None
    broken: list[Counterexample] = field(default_factory=list)


def digest_of_pixels(image: Float32Array) -> str:
    """The key of an image in what is kept."""
    return hashlib.sha256(np.ascontiguousarray(image, "<f4").tobytes()).hexdigest()


@dataclass(frozen=True)
class Judge:
    """The served graph, as what decides."""

    serve: Runner
    takes_bytes: bool
    """UINT8 [N, H, W, C]: images are multiples of 1/255."""

    def answers(self, images: Float32Array) -> Outputs:
        """The outputs for images [N, C, H, W] that can be sent."""
        return self.serve(as_levels(images) if self.takes_bytes else images)

    def sent(self, images: Float32Array, *, towards: Float32Array | None = None) -> Float32Array:
        """The images that can be sent in place of these: in [0,1], and of bytes for a model that takes them.

        Args:
            images: [N, C, H, W].
            towards: to what pixels are rounded; None: to the nearest level.
        """
        inside = np.clip(images, 0, 1).astype(np.float32)
        if not self.takes_bytes:
            return inside
        levels = np.clip(images.astype(np.float64), 0, 1) * 255
        if towards is None:
            levels = np.rint(levels)
        else:
            near = np.rint(towards.astype(np.float64) * 255)
            levels = np.where(levels > near, np.floor(levels + 1e-4), np.ceil(levels - 1e-4))
        return (levels.astype(np.float32) / np.float32(255)).astype(np.float32)

    def judge(self, images: Float32Array, records: list[AttackedImage], found: Found) -> None:
        """Add what was found to the records of the images that were attacked.

        Args:
            images: [N, C, H, W], as they were sent.
            records: N.
            found: what an attack ended with.
        """
        near = images[found.rows]
        for tried in self._tried(near, found, np.array([records[row].radius for row in found.rows])):
            label, distance = self.answers(tried)["label"], _distances(near, tried)
            for row, at, other, image in zip(found.rows, distance, label, tried, strict=True):
                record = records[row]
                if other in (record.label, INVALID_LABEL):
                    continue
                if record.nearest is None or at < record.nearest:
                    record.nearest, record.nearest_by = float(at), found.attack
                if at <= record.radius:
                    record.broken.append(
                        Counterexample(
                            attack=found.attack,
                            start=record.start,
                            radius=record.radius,
                            distance=float(at),
                            label=record.label,
                            other_label=int(other),
                            shape=images.shape[1:],
                            image=_text(images[row]),
                            other_image=_text(image),
                        )
                    )

    def _tried(self, near: Float32Array, found: Found, radii: Float64Array) -> Iterator[Float32Array]:
        """What was found, and brought back where that is outside by a little."""
        there = self.sent(found.images, towards=near)
        yield there
        distance = _distances(near, there)
        outside = (distance > radii) & (distance < radii * 1.01)
        if outside.any():
            share = np.where(outside, radii / np.maximum(distance, 1e-30) * _JUST_INSIDE, 1.0)
            way = there.astype(np.float64) - near
            yield self.sent((near + share[:, None, None, None] * way).astype(np.float32), towards=near)


def _distances(images: Float32Array, others: Float32Array) -> Float64Array:
    """L2, in float64, [N]."""
    apart = images.astype(np.float64) - others
    return np.asarray(np.sqrt((apart.reshape(len(apart), -1) ** 2).sum(1)))


def _text(image: Float32Array) -> str:
    return base64.b64encode(np.ascontiguousarray(image, "<f4").tobytes()).decode()
