"""From a 1-Lipschitz torch network to a graph whose constant is proven, and what the card says of that.

The constants that training estimates are replaced: kernels are rounded to float16, a bound on the norm of each is
proven for those very numbers (`certification.operator_norm`), and the step of its layer is made of the bound. Then the
network is 1-Lipschitz in real arithmetic, and what float64 makes of it is bounded too (`certification.rounding`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from heatserve.certification.operator_norm import absolute_norm, convolution_norm, largest_step
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.radius import Float32Array
from heatserve.certification.rounding import FLOAT64_UNIT, logits_error, reach_of
from heatserve.export.card_parts import LEAST_TEMPERATURE, LipschitzBound, LipschitzLayer, slack_of
from heatserve.export.graph.lipschitz import LipschitzGraph
from heatserve.export.graph.tracing import NotExportableError

if TYPE_CHECKING:
    from torch import nn

    from heatserve.training import ImageClassifier
    from heatserve.training.architectures.lipschitz import ConvexPotential


def is_lipschitz(network: ImageClassifier) -> bool:
    """Whether a network is 1-Lipschitz by construction, but for the estimates that its training made do with."""
    from heatserve.training.architectures.lipschitz import LipschitzNetwork

    return isinstance(network.backbone, LipschitzNetwork)


def proven_network(
    network: ImageClassifier,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    temperature: float = 1.0,
    progress: Progress = unseen,
) -> tuple[onnx.ModelProto, LipschitzBound]:
    """The graph `image` FP32 [N, C, H, W] in [0,1] → `logits` DOUBLE [N, K], 1-Lipschitz, and the proof in numbers.

    Args:
        network: one that `is_lipschitz`.
        input_shape: C, H, W.
        num_classes: K.
        temperature: T of the served softmax(logits / T); one above 1 counts as 1, one below 2⁻²⁰ as that.
        progress: is told of the layers, whose bounds take seconds each.

    Raises:
        NotExportableError: a layer of which no constant is known, images that are divided by a std below 1, or
            weights that are no finite numbers of float16.
        HeatserveError: no norm could be proven.
    """
    channels, size, _ = input_shape
    if bool((network.std != 1).any()):
        raise NotExportableError("std: expected 1 for each channel, since dividing by less adds to the constant")
    mean = network.mean.flatten().numpy()
    graph = LipschitzGraph(channels=channels, size=size, mean=mean)
    layers = list(network.backbone.children())
    found = [_add(graph, module) for module in progress(layers, len(layers), "layers")]
    bound = lipschitz_bound([layer for layer in found if layer], input_shape, mean, temperature=temperature)
    return graph.logits(num_classes), bound


def lipschitz_bound(
    layers: Sequence[LipschitzLayer], input_shape: tuple[int, int, int], mean: Float32Array, *, temperature: float = 1.0
) -> LipschitzBound:
    """What follows from the layers of a network for its logits in float64, and for the radii; `mean` [C] or [1]."""
    means = np.broadcast_to(mean.astype(np.float64), input_shape[:1])
    reach = reach_of(means, pixels=math.prod(input_shape[1:]))
    error = logits_error([layer.rounding for layer in layers], reach=reach, unit=FLOAT64_UNIT)
    return LipschitzBound(
        layers=tuple(layers),
        logits_error=error,
        slack=slack_of(error, input_shape),
        temperature=min(1.0, max(LEAST_TEMPERATURE, temperature)),
    )


def _add(graph: LipschitzGraph, module: nn.Module) -> LipschitzLayer | None:
    """Add a layer of torch to the graph; what is known of its norm, where it has one."""
    from torch import nn

    from heatserve.training.architectures.lipschitz import ConvexPotential, FirstChannels, FirstLogits, MaxMin

    if isinstance(module, ConvexPotential):
        return _add_potential(graph, module)
    if isinstance(module, MaxMin):
        graph.max_min()
    elif isinstance(module, FirstChannels):
        graph.first_channels(module.channels)
    elif isinstance(module, nn.PixelUnshuffle) and module.downscale_factor == 2:
        graph.space_to_depth()
    elif not isinstance(module, nn.Flatten | FirstLogits):  # of one pixel, and what `LipschitzGraph.logits` does
        raise NotExportableError(f"network: expected layers whose constant is known, got {type(module).__name__}")
    return None


def _add_potential(graph: LipschitzGraph, module: ConvexPotential) -> LipschitzLayer:
    kernel = module.kernel.detach().cpu().numpy()
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        rounded, bias = kernel.astype(np.float16), module.bias.detach().cpu().numpy().astype(np.float32)
    if not (np.isfinite(rounded).all() and np.isfinite(bias).all()):
        raise NotExportableError("network: expected weights that are finite numbers of float16, got others")
    norm = convolution_norm(rounded, graph.size)
    layer = LipschitzLayer(
        channels=graph.channels,
        kernel_size=kernel.shape[2],
        size=graph.size,
        norm=norm,
        absolute_norm=absolute_norm(rounded),
        step=largest_step(norm),
        bias=float(np.linalg.norm(bias.astype(np.float64)) * graph.size * (1 + 2.0**-20)),
    )
    graph.potential(rounded, bias, layer.step)
    return layer
