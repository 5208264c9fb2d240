"""The share of the answers that is judged: chosen by chance, in memory only, and dropped where nobody has time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.radius import Float32Array, top_score
from heatserve.export.contract import INVALID_LABEL
from heatserve.serving.unix_sockets import connected
from heatserve.serving.vote_protocol import Channel, Sample

_MOST_WAITING = 16
_MOST_BYTES = 32 * 2**20
_PAUSE_SECONDS = 1.0  # before the voter is looked for again


class Sampler:
    """Chooses answers of one instance of a model, and hands them to the process that votes, by a thread of its own.

    Whether an image is chosen depends on nothing but chance. Where the voter does not take them in time, those that
    come are dropped.
    """

    def __init__(
        self,
        folder: Path,
        *,
        share: float,
        shape: tuple[int, ...],
        pixels: Callable[[NDArray[Any]], Float32Array],
        on_drop: Callable[[], object],
    ) -> None:
        """Choose nothing yet; `start` begins.

        Args:
            folder: where the voter listens.
            share: of the images, that are chosen.
            shape: [C, H, W] of an image as votes are taken on it.
            pixels: from images as a request has them to those, see `votable_pixels`.
            on_drop: called for each image that is dropped.
        """
        self._folder = folder
        self._share = share
        self._shape = shape
        self._pixels = pixels
        self._on_drop = on_drop
        self._chance = np.random.default_rng()
        self._waiting = deque[tuple[NDArray[Any], Sample]]()
        self._bytes = 0
        self._changed = threading.Condition()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._hand_over, name="heatserve-sampler", daemon=True).start()

    def offer(self, images: NDArray[Any], outputs: Mapping[str, NDArray[Any]], among: NDArray[np.bool_]) -> None:
        """Choose among images that are answered; those are copied.

        Args:
            images: as requests have them, [N, …].
            outputs: the answers, by name, as callers get them.
            among: which of the images are those of callers, and answered, [N].
        """
        chosen = self._chance.random(len(images)) < self._share
        if not chosen.any():
            return
        for index in np.flatnonzero(chosen & among & (outputs["label"] != INVALID_LABEL)):
            sample = Sample(
                label=int(outputs["label"][index]),
                score=float(top_score(outputs["probabilities"][index])),
                radius=float(outputs["certified_radius"][index]),
            )
            self._add(images[index], sample)

    def _add(self, image: NDArray[Any], sample: Sample) -> None:
        with self._changed:
            has_room = len(self._waiting) < _MOST_WAITING and self._bytes + image.nbytes <= _MOST_BYTES
            if has_room:
                self._waiting.append((image.copy(), sample))
                self._bytes += image.nbytes
                self._changed.notify()
        if not has_room:
            self._on_drop()

    def _next(self) -> tuple[NDArray[Any], Sample]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            image, sample = self._waiting.popleft()
            self._bytes -= image.nbytes
        return image, sample

    def _hand_over(self) -> None:
        while True:
            try:
                channel = Channel(connected(self._folder), shape=self._shape)
                while True:
                    image, sample = self._next()
                    channel.send(sample, self._pixels(image[None])[0])
            except OSError:  # the voter is not there, or has ended; its server starts it again
                time.sleep(_PAUSE_SECONDS)
