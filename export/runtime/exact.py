"""Whether a graph answers as the torch network that it was made of, at the batches that a server runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx

from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.export.graph.tracing import NotExportableError, answer_of
from heatserve.export.runtime.session import open_session

if TYPE_CHECKING:
    from torch import nn

BATCHES = (1, 2, 7, 64)
"""Images in a batch: alone, as in the example that was traced, an odd number, and the most that Triton joins."""
TOLERANCE = 1e-5
"""The largest difference of a probability, for float32 in another order of summation."""


def probability_errors(network: nn.Module, graph: onnx.ModelProto, *, seed: int = 0) -> dict[int, float]:
    """The largest difference between a probability of the graph and of torch, by the size of the batch.

    Args:
        network: images FP32 [N, C, H, W] → logits [N, K], in eval mode.
        graph: from `image` FP32 to, among others, `probabilities` FP32 [N, K].
        seed: of the images, noise of many ranges of brightness.

    Raises:
        NotExportableError: torch answers NaN or ±∞, or answers an image otherwise in another batch.
        GraphError: ONNX Runtime cannot load the graph.
    """
    channels, height, width = (dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim[1:])
    images = _images((max(BATCHES), channels, height, width), seed)
    expected = _by_batch(network, images)
    session = open_session(graph.SerializeToString())
    found = {batch: session.run(["probabilities"], {"image": images[-batch:]})[0] for batch in BATCHES}
    return {batch: float(np.abs(found[batch] - expected[batch]).max()) for batch in BATCHES}


def require_exact(network: nn.Module, graph: onnx.ModelProto) -> None:
    """Run both on the same images; see `probability_errors`.

    Raises:
        NotExportableError: a probability differs by more than `TOLERANCE`; see also `probability_errors`.
        GraphError: ONNX Runtime cannot load the graph.
    """
    require_within(probability_errors(network, graph))


def require_within(errors: Mapping[int, float], tolerance: float = TOLERANCE) -> None:
    """Refuse a graph whose probabilities differ by more than a tolerance, at any size of batch.

    Raises:
        NotExportableError: names the sizes and the differences.
    """
    if not all(error <= tolerance for error in errors.values()):
        raise NotExportableError(
            f"network: its graph answers otherwise than torch does: expected probabilities within {tolerance:g}, got "
            f"differences of {_listed(errors)}; its forward may compute something else while it is traced"
        )


def _listed(errors: Mapping[int, float]) -> str:
    return ", ".join(f"{error:.1e} in a batch of {batch}" for batch, error in errors.items())


def _images(shape: tuple[int, int, int, int], seed: int) -> Float32Array:
    """Noise in [0,1], dark and bright, of much and of little contrast, so that no batch is like another one."""
    draws = np.random.default_rng(seed)
    low, high = np.sort(draws.random((2, shape[0], 1, 1, 1), dtype=np.float32), axis=0)
    images: Float32Array = low + (high - low) * draws.random(shape, dtype=np.float32)
    return images


def _by_batch(network: nn.Module, images: Float32Array) -> dict[int, Float64Array]:
    """torch's probabilities for the last images, at each size of batch."""
    import torch

    found = {
        batch: answer_of(network, torch.from_numpy(images[-batch:])).double().softmax(1).numpy() for batch in BATCHES
    }
    most = found[max(BATCHES)]
    if not np.isfinite(most).all():
        raise NotExportableError("network: expected numbers for images of noise, got NaN or infinite logits")
    apart = {batch: float(np.abs(answer - most[-batch:]).max()) for batch, answer in found.items()}
    worst = max(apart, key=lambda size: apart[size])
    if apart[worst] > TOLERANCE:
        raise NotExportableError(
            f"network: it answers an image otherwise in a batch of {worst} than in one of {max(BATCHES)}, by "
            f"{apart[worst]:.1e} in a probability: expected an answer that depends on that image alone and draws no "
            "random numbers, since a server joins the images of several callers"
        )
    return found
