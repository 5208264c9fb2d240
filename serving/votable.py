"""The pixels that votes are taken on, from the images of a request."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.radius import Float32Array
from heatserve.export.card import GRAPH_NAME, Card, read_verified
from heatserve.export.runtime.session import open_session


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

    one_thread()
    graph = onnx.load_from_string(read_verified(version_dir / GRAPH_NAME, card.graph_sha256))
    session = open_session(pixels_graph(graph).SerializeToString())
    return lambda images: np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def one_thread() -> None:
    """Of ONNX Runtime's one pool, before it starts: the idle threads of a larger one would spin."""
    os.environ["OMP_NUM_THREADS"] = "1"
