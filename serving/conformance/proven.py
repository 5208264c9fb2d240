"""Probes of deterministic certificates: graphs in float64 whose logits are known, and what engines must answer.

Two kinds. One encodes its logits in the image, as the probes of statistical certificates do, so that margins lie at
ties and within steps of the slack. The other is a small 1-Lipschitz network of the layers that are exported; its
logits are computed in float64 numpy from the bytes of the graph, and an engine that is off by more than the stated
error is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import parser

from heatserve.certification.operator_norm import absolute_norm, convolution_norm, largest_step
from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.export.audit.proven.reading import read_graph
from heatserve.export.card_parts import LipschitzBound, LipschitzLayer
from heatserve.export.contract import Outputs, Reason
from heatserve.export.graph.build import proven_graph, uint8_input
from heatserve.export.graph.certificate import NOT_CALIBRATED
from heatserve.export.graph.lipschitz import LipschitzGraph
from heatserve.export.lipschitz import lipschitz_bound
from heatserve.serving.conformance.probe import FP32, REACH, UINT8, Encoding, Probe, pixels_of

_SLACK = 1e-3
"""Of the probes that encode logits: steps of their margins are far smaller."""
_LOST = 1e-6  # relative: what a radius is made smaller by before it becomes float32, and more
_NETWORK = """
<ir_version: 9, opset_import: ["" : 18]>
probe (float[N,1,3,{classes}] image) => (double[N,{classes}] logits)
<double[1] reach = {{{reach}}}, double[1] whole = {{1}}, double step = {{0}},
 int64[1] row_0 = {{0}}, int64[1] row_1 = {{1}}, int64[1] row_2 = {{2}}>
{{
    pixels = Cast<to = 11>(image)
    up = Gather<axis = 2>(pixels, row_0)
    down = Gather<axis = 2>(pixels, row_1)
    broken = Gather<axis = 2>(pixels, row_2)
    height = Sub(up, down)
    moved = Mul(height, step)
    kept = Sub(height, moved)
    scaled = Mul(kept, reach)
    divisor = Sub(whole, broken)
    divided = Div(scaled, divisor)
    logits = Flatten<axis = 1>(divided)
}}
"""
_NOTHING = LipschitzLayer(channels=1, kernel_size=1, size=1, norm=0, absolute_norm=0, bias=0, step=0)
_SHAPE = (1, 8, 8)  # of an image of the network


def proven_probes(*, seed: int) -> list[Probe]:
    """Encoded logits for 2, 10 and 1000 classes and in bytes, and a network in floats and in bytes."""
    encoded = [_encoded(FP32, classes) for classes in (2, 10, 1000)]
    return [*encoded, _encoded(UINT8, 10), _network(FP32, seed), _network(UINT8, seed)]


def proven_logits(one: Probe, images: NDArray[Any]) -> Float64Array:
    """The logits in float64 [N, K] that the network of such a probe must answer; NaN or ∞ as it divides by zero."""
    pixels = pixels_of(images)
    if one.is_encoded:
        up, down, broken = pixels[:, 0].astype(np.float64).transpose(1, 0, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((up - down) * REACH / (1 - broken))
    return read_graph(one.graph).network(pixels)


def hard_images(one: Probe, *, count: int, rng: np.random.Generator) -> NDArray[Any]:
    """`count` images that are hard: ties, margins around 0 and around the slack, and others of every size."""
    assert one.bound is not None
    if one.is_encoded:
        return one.encoding.encode(_hard_logits(one.classes, one.bound.slack, count, rng))
    images = rng.random((count, *_SHAPE), dtype=np.float32)
    images[::3] = images[::3].round()
    near = _at_a_boundary(one, images[: count // 2], rng)
    found = np.concatenate([near, images[len(near) :]])
    if one.encoding.input_type == "FP32":
        return found
    return np.ascontiguousarray(np.rint(found * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1))


def check_proven(one: Probe, logits: Float64Array, out: Outputs) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """What is promised of the radii and reasons of valid images, whose logits in float64 are `logits`."""
    assert one.bound is not None
    slack, error = one.bound.slack, 0.0 if one.is_encoded else one.bound.logits_error
    exact = _radius_of(logits, out["label"])
    nominal, certified = (out[name].astype(np.float64) for name in ("nominal_radius", "certified_radius"))
    apart = np.maximum(exact, 0)
    yield "proven nominal_radius", (nominal >= 0) & (nominal <= apart + error)
    yield "proven nominal_radius of use", nominal >= exact * (1 - _LOST) - error
    yield "proven certified_radius", (certified >= 0) & (certified <= np.maximum(exact - slack, 0) + error)
    yield "proven certified_radius of use", certified >= (exact - slack) * (1 - _LOST) - exact * 1e-11 - 2 * error
    yield "proven l_bound", out["l_bound"] == out["certified_radius"]
    yield "proven reason", out["reason"] == np.where(certified > 0, int(Reason.PROVEN), int(Reason.UNSURE))


def _encoded(encoding: Encoding, classes: int) -> Probe:
    network = parser.parse_model(_NETWORK.format(classes=classes, reach=REACH))
    bound = LipschitzBound(layers=(_NOTHING,), logits_error=1e-12, slack=_SLACK)
    return _probe(network, bound, encoding, classes, (1, 3, classes))


def _network(encoding: Encoding, seed: int) -> Probe:
    """Layers of 8, 16 and 64 channels with a convolution, products of pixels, and everything between layers."""
    rng = np.random.default_rng((seed, 64))
    graph = LipschitzGraph(channels=1, size=8, mean=np.array([0.5], np.float32))
    layers = []
    for channels, side in ((8, 3), (16, 1), (64, 1)):
        graph.space_to_depth()
        graph.first_channels(channels)
        layers.append(_layer(graph, side, rng))
        graph.max_min()
    bound = lipschitz_bound(layers, _SHAPE, np.array([0.5], np.float32), temperature=0.25)
    return _probe(graph.logits(10), bound, encoding, 10, _SHAPE)


def _layer(graph: LipschitzGraph, side: int, rng: np.random.Generator) -> LipschitzLayer:
    channels = graph.channels
    kernel = (rng.standard_normal((channels, channels, side, side)) / channels**0.5).astype(np.float16)
    bias = (0.1 * rng.standard_normal(channels)).astype(np.float32)
    norm = convolution_norm(kernel, graph.size)
    layer = LipschitzLayer(
        channels=channels,
        kernel_size=side,
        size=graph.size,
        norm=norm,
        absolute_norm=absolute_norm(kernel),
        step=largest_step(norm),
        bias=float(np.linalg.norm(bias.astype(np.float64)) * graph.size * (1 + 2.0**-20)),
    )
    graph.potential(kernel, bias, layer.step)
    return layer


def _probe(
    network: onnx.ModelProto, bound: LipschitzBound, encoding: Encoding, classes: int, shape: tuple[int, int, int]
) -> Probe:
    served = uint8_input(network) if encoding.input_type == "UINT8" else network
    graph = proven_graph(served, slack=bound.slack, temperature=bound.temperature).SerializeToString()
    return Probe(encoding, classes, 0.0, NOT_CALIBRATED, graph, bound=bound, input_shape=shape)


def _radius_of(logits: Float64Array, label: NDArray[np.int64]) -> Float64Array:
    """(f_a − max_b f_b)/√2 of the classes that were answered."""
    rows = np.arange(len(logits))
    others = logits.copy()
    others[rows, label] = -np.inf
    return np.asarray((logits[rows, label] - others.max(1)) / np.sqrt(2))


def _hard_logits(classes: int, slack: float, count: int, rng: np.random.Generator) -> Float32Array:
    """Of every size; two or more at the top that are equal, or apart by as much as the slack, or by a few steps."""
    logits = rng.standard_normal((count, classes)) * np.exp(rng.uniform(-7, 3, (count, 1)))
    logits[::7] = rng.choice([-80.0, 0.0, 80.0], logits[::7].shape)
    top = logits.max(1)
    apart = np.where(rng.random(count) < 0.5, slack * np.sqrt(2), 0.0)
    chosen = rng.integers(0, 3, count)
    rows = np.arange(count)
    first, second = rng.permuted(np.tile(np.arange(classes), (count, 1)), axis=1)[:, :2].T
    moved = np.where(chosen == 0, 0, 1).astype(bool)  # two thirds of them
    logits[rows[moved], first[moved]] = (top + apart)[moved]
    logits[rows[moved], second[moved]] = top[moved]
    limited: Float32Array = np.clip(logits, -REACH, REACH).astype(np.float32)
    at = limited[rows, first]
    limited[rows, first] = np.clip(at + np.spacing(at) * rng.integers(-3, 4, count), -REACH, REACH)
    return limited


def _at_a_boundary(one: Probe, images: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Images on the way from some to others, within float32 of where the class or the certified radius changes."""
    assert one.bound is not None
    network, slack = read_graph(one.graph).network, one.bound.slack
    others = images[rng.permutation(len(images))]
    labels = network(images).argmax(1)
    threshold = np.where(rng.random(len(images)) < 0.5, 0.0, slack)
    low, high = np.zeros(len(images)), np.ones(len(images))

    def at(share: Float64Array) -> Float32Array:
        return np.asarray(images + share[:, None, None, None] * (others - images).astype(np.float64), np.float32)

    for _ in range(40):
        middle = (low + high) / 2
        above = _radius_of(network(at(middle)), labels) > threshold
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return at(np.where(rng.random(len(images)) < 0.5, low, high))
