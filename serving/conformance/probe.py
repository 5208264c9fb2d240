"""Probes: certified graphs whose image encodes the logits of its network, so that what they must answer is known.

The image has three rows of one pixel a class. For a logit z, the first row holds max(z, 0)/128 and the second
max(−z, 0)/128; the third holds 1 where the logit is to be NaN or infinite, which the network makes by a division by
zero, and 0 elsewhere. Every float32 from −128 to 128 passes through without rounding; what 8 bits and FP16 make of it
is known, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import parser

from heatserve.certification.guard import Guard
from heatserve.certification.radius import Float32Array, RadiusMap
from heatserve.export.card import InputType
from heatserve.export.card_parts import LipschitzBound
from heatserve.export.graph.build import certified_graph, uint8_input, with_map
from heatserve.export.graph.precision import to_fp16

REACH = 128.0
"""The largest logit that an image can encode; a power of two, so that dividing by it is exact."""

_NETWORK = """
<ir_version: 9, opset_import: ["" : 18]>
probe (float[N,1,3,{classes}] image) => (float[N,{classes}] logits)
<float[1] reach = {{{reach}}}, float[1] whole = {{1}},
 int64[1] row_0 = {{0}}, int64[1] row_1 = {{1}}, int64[1] row_2 = {{2}}>
{{
    up = Gather<axis = 2>(image, row_0)
    down = Gather<axis = 2>(image, row_1)
    broken = Gather<axis = 2>(image, row_2)
    height = Sub(up, down)
    scaled = Mul(height, reach)
    divisor = Sub(whole, broken)
    divided = Div(scaled, divisor)
    logits = Flatten<axis = 1>(divided)
}}
"""


@dataclass(frozen=True)
class Encoding:
    """One variant of the network: how images encode logits for it, and how it decodes them."""

    input_type: InputType
    network: Callable[[int], onnx.ModelProto]
    """The graph from `image` to `logits` [N, K], for K classes."""
    encode: Callable[[Float32Array], NDArray[Any]]
    """Images for logits [N, K], as near as they can come."""
    decode: Callable[[NDArray[Any]], Float32Array]
    """The logits [N, K] that the network answers, exactly."""
    invalid: tuple[float, ...]
    """Pixels that make an image invalid."""
    tolerance: float
    """What each probability may be off by."""


@dataclass(frozen=True)
class Probe:
    """One certified graph and everything that its answers follow from."""

    encoding: Encoding
    classes: int
    sigma: float
    radius_map: RadiusMap
    graph: bytes
    """Serialised ONNX."""
    guard: Guard | None = None
    bound: LipschitzBound | None = None
    """Of a deterministic certificate, whose graph is in float64; it has no σ and no map."""
    input_shape: tuple[int, int, int] | None = None
    """C, H, W of an image; None: that which encodes logits."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W of an image."""
        return self.input_shape or (1, 3, self.classes)

    @property
    def is_encoded(self) -> bool:
        """Whether images encode logits; otherwise they are images, of a network."""
        return self.shape == (1, 3, self.classes)


def probe(
    encoding: Encoding, *, classes: int, sigma: float, radius_map: RadiusMap, guard: Guard | None = None
) -> Probe:
    """The graph that `heatserve export` and `heatserve calibrate` would make of this network."""
    graph = with_map(certified_graph(encoding.network(classes), sigma=sigma), radius_map, guard)
    return Probe(encoding, classes, sigma, radius_map, graph.SerializeToString(), guard)


def pixels_of(images: NDArray[Any]) -> NDArray[np.float32]:
    """Images as a graph takes them, as the FP32 [N, C, H, W] that its network gets."""
    return images.transpose(0, 3, 1, 2) / np.float32(255) if images.dtype == np.uint8 else images


def _network(classes: int) -> onnx.ModelProto:
    return parser.parse_model(_NETWORK.format(classes=classes, reach=REACH))


def _encode(logits: Float32Array) -> Float32Array:
    up = np.clip(np.nan_to_num(logits, nan=0.0) / np.float32(REACH), -1, 1)
    rows = (np.maximum(up, 0), np.maximum(-up, 0), ~np.isfinite(logits))
    return np.stack(rows, axis=1, dtype=np.float32)[:, None]


def _decode(images: NDArray[np.floating[Any]]) -> Float32Array:
    up, down, broken = images[:, 0].transpose(1, 0, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = (up - down) * images.dtype.type(REACH) / (1 - broken)
    return np.asarray(logits, np.float32)


def _encode_in_bytes(logits: Float32Array) -> NDArray[np.uint8]:
    levels = np.rint(_encode(logits) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


FP32 = Encoding(
    input_type="FP32",
    network=_network,
    encode=_encode,
    decode=_decode,
    invalid=(np.nan, np.inf, -np.inf, -0.001, 1.001, -1e-45, float(np.nextafter(np.float32(1), np.float32(2)))),
    tolerance=1e-5,
)
FP16 = replace(
    FP32, network=lambda classes: to_fp16(_network(classes)), decode=lambda images: _decode(images.astype(np.float16))
)
UINT8 = replace(
    FP32,
    input_type="UINT8",
    network=lambda classes: uint8_input(_network(classes)),
    encode=_encode_in_bytes,
    decode=lambda images: _decode(pixels_of(images)),
    invalid=(),
)
