"""Whether a graph answers as the torch network that it was made of, at the batches that a server runs.

Two correct programs in float32 sum in different orders, and a network may enlarge what that changes. How much is
measured on torch itself: by how far its probabilities move where each pixel moves to the next number of float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.export.graph.build import logits_graph, plain_graph
from heatserve.export.graph.tracing import NotExportableError, answer_of
from heatserve.export.runtime.session import open_session

if TYPE_CHECKING:
    from torch import nn

BATCHES = (1, 2, 7, 64)
"""Images in a batch: alone, as in the example that was traced, an odd number, and the most that Triton joins."""
TOLERANCE = 1e-5
"""The largest difference of a probability that is allowed to every network."""
_TIMES_ROUNDING = 4
_MOST = 1e-3  # whatever the rounding: an answer that is drawn at random moves by itself


@dataclass(frozen=True)
class Exactness:
    """How far the probabilities of a graph are from torch's."""

    errors: Mapping[int, float]
    """The largest difference, by the size of the batch."""
    rounding: float
    """The largest difference in torch itself, where each pixel is the next number of float32."""

    @property
    def allowed(self) -> float:
        """The largest difference that rounding explains: `TOLERANCE`, or 4 times `rounding`, but at most 10⁻³."""
        return _allowed(self.rounding)

    def require(self) -> None:
        """Refuse what rounding does not explain.

        Raises:
            NotExportableError: names the sizes of batches and the differences.
        """
        if not all(error <= self.allowed for error in self.errors.values()):
            listed = ", ".join(f"{error:.1e} in a batch of {batch}" for batch, error in self.errors.items())
            raise NotExportableError(
                f"network: its graph answers otherwise than torch does: expected probabilities within "
                f"{self.allowed:.1g}, got differences of {listed}; its forward may compute something else while it is "
                "traced"
            )


def exact_graph(network: nn.Module, *, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """`image` FP32 [N, C, H, W] in [0,1] → `logits` FP32 [N, K], which answers as the network does in torch.

    Args:
        network: takes and returns what the graph does; put into eval mode.
        input_shape: C, H, W.

    Raises:
        NotExportableError: no graph can be this network, or it answers otherwise.
        GraphError: ONNX Runtime cannot load it.
    """
    logits = logits_graph(network, input_shape=input_shape)
    compare_with_torch(network, plain_graph(logits)).require()
    return logits


def compare_with_torch(network: nn.Module, graph: onnx.ModelProto, *, seed: int = 0) -> Exactness:
    """Ask both for the same images.

    Args:
        network: images FP32 [N, C, H, W] → logits [N, K], in eval mode.
        graph: from `image` FP32 to, among others, `probabilities` FP32 [N, K].
        seed: of the images.

    Raises:
        NotExportableError: torch answers NaN or ±∞, or answers an image otherwise in another batch.
        GraphError: ONNX Runtime cannot load the graph.
    """
    channels, height, width = (dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim[1:])
    images = noise_images((max(BATCHES), channels, height, width), seed=seed)
    expected, rounding = _of_torch(network, images)
    session = open_session(graph.SerializeToString())
    found = {batch: session.run(["probabilities"], {"image": images[-batch:]})[0] for batch in BATCHES}
    return Exactness({batch: _apart(found[batch], expected[batch]) for batch in BATCHES}, rounding)


def noise_images(shape: tuple[int, int, int, int], *, seed: int) -> Float32Array:
    """Noise [N, C, H, W] in [0,1], dark and bright, of much and of little contrast, so that batches differ."""
    draws = np.random.default_rng(seed)
    low, high = np.sort(draws.random((2, shape[0], 1, 1, 1), dtype=np.float32), axis=0)
    images: Float32Array = low + (high - low) * draws.random(shape, dtype=np.float32)
    return images


def _allowed(rounding: float) -> float:
    return min(max(TOLERANCE, _TIMES_ROUNDING * rounding), _MOST)


def _apart(one: Float64Array | Float32Array, other: Float64Array) -> float:
    return float(np.abs(one - other).max())


def _of_torch(network: nn.Module, images: Float32Array) -> tuple[dict[int, Float64Array], float]:
    """torch's probabilities for the last images, at each size of batch, and its `rounding`."""
    found = {batch: _probabilities(network, images[-batch:]) for batch in BATCHES}
    most = found[max(BATCHES)]
    if not np.isfinite(most).all():
        raise NotExportableError("network: expected numbers for images of noise, got NaN or infinite logits")
    rounding = _apart(_probabilities(network, np.nextafter(images, np.float32(1))), most)
    apart = {batch: _apart(answer, most[-batch:]) for batch, answer in found.items()}
    worst = max(apart, key=lambda size: apart[size])
    if not apart[worst] <= _allowed(rounding):
        raise NotExportableError(
            f"network: it answers an image otherwise in a batch of {worst} than in one of {max(BATCHES)}, by "
            f"{apart[worst]:.1e} in a probability: expected an answer that depends on that image alone and draws no "
            "random numbers, since a server joins the images of several callers"
        )
    return found, rounding


def _probabilities(network: nn.Module, images: Float32Array) -> Float64Array:
    import torch

    answer: Float64Array = answer_of(network, torch.from_numpy(images)).double().softmax(1).numpy()
    return answer
