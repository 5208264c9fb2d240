"""The single pass of a tier: what the served model answers to the images, and what votes are taken on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.radius import Float32Array
from heatserve.export.card import GRAPH_NAME, Card, read_verified
from heatserve.export.runtime.served import open_version
from heatserve.export.runtime.session import open_session
from heatserve.serving.shadow.folder import withdrawn


@dataclass(frozen=True)
class Passed:
    """The single pass on N images."""

    label: NDArray[np.int64]
    """Their classes, [N]; −1 where the network answers no numbers."""
    expected: NDArray[np.float32]
    """The probabilities of these classes, p₍₁₎, [N]."""
    certified_radius: NDArray[np.float32]


class SinglePass:
    """The served graph of one version, on one thread."""

    def __init__(self, version_dir: Path, card: Card) -> None:
        """Load what is served.

        Raises:
            CardError: a file is not the one of the card.
            HeatserveError: what runs it is not here.
        """
        _one_thread()
        self._run = open_version(version_dir, card)
        self._is_withdrawn = withdrawn(card)

    def run(self, images: NDArray[Any]) -> Passed:
        """What is served for images as a request has them, FP32 [N, C, H, W] or UINT8 [N, H, W, C]."""
        outputs = self._run(images)
        radius = outputs["certified_radius"]
        radius = np.zeros_like(radius) if self._is_withdrawn() else radius
        return Passed(outputs["label"], outputs["probabilities"].max(axis=1), radius)


def votable_pixels(version_dir: Path, card: Card) -> Callable[[NDArray[Any]], Float32Array]:
    """From images as a request has them to those that votes are taken on: what the network in the graph gets.

    These are float32 [N, C, H, W] in [0,1], and in memory of their own, since a request's is Triton's.

    Raises:
        CardError: the graph is not the one of the card.
    """
    if card.input_type == "FP32":
        return lambda images: np.array(images, np.float32)
    import onnx  # here: twenty megabytes that a tier of a FP32 model does without

    from heatserve.export.graph.build import pixels_graph

    _one_thread()
    graph = onnx.load_from_string(read_verified(version_dir / GRAPH_NAME, card.graph_sha256))
    session = open_session(pixels_graph(graph).SerializeToString())
    return lambda images: np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def _one_thread() -> None:
    """Of ONNX Runtime's one pool, before it starts: the idle threads of a larger one would spin."""
    os.environ["OMP_NUM_THREADS"] = "1"
