"""The certificate, as ONNX operators that follow the network's logits inside the served graph (docs/served-graph.md).

All arithmetic of a served radius is in `_TEMPLATE` and its constants: some 30 operators on a few numbers an image, all
FP32 and deterministic. They are built on five ideas. A calibrated graph also has a guard (`graph/guard.py`): where the
image is unlike those of the calibration, or where that cannot be told, the certified radius and the L-bound are 0.

**The check.** An engine may drop a NaN in a minimum, a maximum or a clip, and may take x − x for 0, but it keeps NaN in
a sum; and every comparison with NaN is false. Three reductions read the image, and none of them writes another one.

**The quantile.** With A(m) = −Φ⁻¹(m), A is a positive sum of eight fractions (`certification/quantile.py`), without
branches. The score that calibration fits is another weighted sum of the same fractions.

**The tails.** A is taken at q = p₍₂₎ + p₍₃₎ + …, at p₍₁₎ and at p₍₂₎, each clipped to ½, where A is 0. So
Φ⁻¹(p₍₁₎) = A(q) − A(p₍₁₎) on either side of ½, and 1 − p₍₁₎ is summed and never subtracted. A tail of 0 counts as the
smallest normal float32, which gives a large, finite radius.

**The margins.** Each weight of the nominal radius is a little smaller where a larger value would enlarge the radius,
and a little larger where it would shrink it, by more than float32 can lose in any order of summation; the thresholds of
the certified radius are a little higher, by more than float32 can lose in a score. So no radius is above its float64
value.

**The steps.** A certified radius is picked from a table of float32 numbers by comparisons, and not computed.

An image that is invalid (NaN, ±∞, a value outside [0,1]), or that the network answers with NaN, gets label −1, uniform
probabilities, and therefore radii 0: the uniform vector has q ≥ ½.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from heatserve.certification.guard import Guard
from heatserve.certification.quantile import POLES, RESIDUES, fractions
from heatserve.certification.radius import PLAIN_WEIGHTS, Float32Array, Float64Array, RadiusMap
from heatserve.export.contract import INVALID_LABEL, OUTPUT_TENSORS, Reason, top_k_of
from heatserve.export.graph.guard import guard_constants, guard_nodes, guard_tensors

NOT_CALIBRATED = RadiusMap(weights=tuple(map(tuple, PLAIN_WEIGHTS.tolist())), thresholds=(), radii=())
"""The map of a graph without calibration: every certified radius is 0."""

_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Margins:
    """What an engine may lose in float32, and the constants of the graph therefore give away beforehand."""

    roundoff: float = 2.0**-24
    """Relative error of one operation: half a unit in the last of float32's 24 bits."""
    relative: float = 40 * 2.0**-24
    """The relative margin of a radius or score: 27 terms summed in any order, their weights, the quotients and the
    logarithms."""
    absolute: float = 4e-7
    """The absolute margin of a logarithm near 1, where fast implementations are accurate in absolute terms only."""


FLOAT32_MARGINS = Margins()
SIGMA_CONSTANTS = ("nominal_weights", "to_z", "from_erf")
"""The initializers that σ enters."""
SIGMA_TOLERANCE = 1e-6
"""Relative: more than the constants of a graph lose of σ in float32, and less than their margins give away."""


_TEMPLATE = """
certificate ({image} image, float[N,{classes}] logits) => ({outputs})
{{
    softmax = Softmax<axis = 1>(logits)
    total = ReduceSum<keepdims = 0>(softmax, axis_1)
    {check}
    valid_row = Unsqueeze(valid, axis_1)
    probabilities = Where(valid_row, softmax, uniform)

    descending, order = TopK<axis = 1, largest = 1, sorted = 1>(probabilities, classes)
    top_k = Slice(order, from_0, to_top, axis_1)
    first = Gather<axis = 1>(order, index_0)
    label = Where(valid, first, invalid_label)

    picked = Mul(descending, pick_tails)
    tails = ReduceSum<keepdims = 1>(picked, axis_2)
    clipped = Clip(tails, smallest_tail, one)
    log_tails = Log(clipped)
    denominators = Sub(log_tails, poles)
    fractions = Div(log_tails, denominators)

    score_terms = Mul(fractions, score_weights)
    score = ReduceSum<keepdims = 1>(score_terms, axes_02)
    reached = GreaterOrEqual(score, score_thresholds)
    steps = Where(reached, served_radii, zero)
    {radius}
    nominal_terms = Mul(fractions, nominal_weights)
    nominal_sum = ReduceSum<keepdims = 0>(nominal_terms, axes_02)
    nominal_radius = Relu(nominal_sum)
    z = Mul(certified_radius, to_z)
    two_sided = Erf(z)
    l_bound = Mul(two_sided, from_erf)
}}
"""

_RADIUS = """
    certified_radius = ReduceMax<keepdims = 0>(steps, axes_02)
    positive = Greater(certified_radius, zero)
    usual = Where(positive, reason_of_radius, reason_of_none)
    reason = Where(valid, usual, reason_of_invalid)
"""
_GUARDED_RADIUS = """
    mapped_radius = ReduceMax<keepdims = 0>(steps, axes_02)
    certified_radius = Where(like, mapped_radius, zero)
    positive = Greater(mapped_radius, zero)
    usual = Where(positive, reason_of_radius, reason_of_none)
    guarded = Where(like, usual, reason_of_unlike)
    reason = Where(valid, guarded, reason_of_invalid)
"""
_FP32, _UINT8 = "float[N,C,H,W]", "uint8[N,H,W,C]"
_CHECK_IMAGE_AND_NETWORK = """
    lowest = ReduceMin<keepdims = 0>(image, image_axes)
    highest = ReduceMax<keepdims = 0>(image, image_axes)
    brightness = ReduceSum<keepdims = 0>(image, image_axes)
    everything = Add(brightness, total)
    not_below = GreaterOrEqual(lowest, zero)
    not_above = LessOrEqual(highest, one)
    numbers = LessOrEqual(everything, largest)
    inside = And(not_below, not_above)
    valid = And(inside, numbers)
"""
_CHECK_NETWORK = """
    valid = Less(total, two)
"""
CHECKS = {True: (_FP32, _CHECK_IMAGE_AND_NETWORK), False: (_UINT8, _CHECK_NETWORK)}
"""The declaration of `image` and the operators that make `valid`, by whether an image may be invalid."""


def certificate_graph(
    *,
    num_classes: int,
    sigma: float,
    check_image: bool = True,
    guard: Guard | None = None,
    margins: Margins = FLOAT32_MARGINS,
) -> onnx.GraphProto:
    """The operators from `image` and `logits` to the outputs of a served model; every certified radius is 0.

    Args:
        num_classes: K ≥ 2.
        sigma: σ of the smoothing noise, on the [0,1] pixel scale.
        check_image: `image` is FP32 [N, C, H, W], any value of which may be invalid. Otherwise it is UINT8 [N, H, W,
            C], every value of which is valid. That the network answers numbers is checked in both cases.
        guard: compares what the network sees, `image` or, with UINT8, the value `pixels` of its graph; None: no guard.
        margins: what the constants give away; less than the default, and a radius may be above its float64 value.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
    image, check = CHECKS[check_image]
    radius = guard_nodes(guard, pixels="image" if check_image else "pixels") + _GUARDED_RADIUS if guard else _RADIUS
    graph = parser.parse_graph(
        _TEMPLATE.format(image=image, check=check, radius=radius, classes=num_classes, outputs=signature(num_classes))
    )
    used = {name for node in graph.node for name in node.input}
    for name, value in (_constants(num_classes, sigma, margins) | guard_constants()).items():
        if name in used:
            graph.initializer.append(numpy_helper.from_array(value, name))
    graph.initializer.extend(map_tensors(NOT_CALIBRATED, num_classes=num_classes, margins=margins))
    graph.initializer.extend(guard_tensors(guard, roundoff=margins.roundoff) if guard else ())
    return graph


def signature(num_classes: int) -> str:
    """The outputs of the contract, as ONNX's text format declares them."""
    shapes = {tensor: ",".join(("N", *map(str, tensor.shape(num_classes)))) for tensor in OUTPUT_TENSORS}
    return ", ".join(f"{tensor.onnx_type}[{shape}] {tensor.name}" for tensor, shape in shapes.items())


def map_tensors(
    radius_map: RadiusMap, *, num_classes: int, margins: Margins = FLOAT32_MARGINS
) -> list[onnx.TensorProto]:
    """The initializers `score_weights`, `score_thresholds`, `served_radii` and `reason_of_none`: the map of a graph.

    The ninth weight of q is a bonus that lifts any score with q < ½ above any with q ≥ ½, as the thresholds demand.
    """
    weights = np.array(radius_map.weights)
    thresholds, radii = np.array(radius_map.thresholds), np.array(radius_map.radii)
    rising = (np.diff(thresholds) >= 0).all() and (np.diff(radii) > 0).all() and (radii > 0).all()
    finite = all(np.isfinite(part).all() for part in (weights, thresholds, radii))
    if weights.shape != (3, 8) or len(radii) != len(thresholds) or not rising or not finite:
        raise ValueError(f"radius_map: expected 3 × 8 finite weights, rising thresholds and radii, got {radius_map}")
    largest = (np.abs(weights) * fractions(np.array(_TINY, dtype=np.float64))).sum()
    bonus = largest + 1 - min(thresholds.min(initial=0.0), 0.0)
    tail = 4 * (num_classes + 2) * margins.roundoff  # what q is off by, relative, with its inflation
    slopes = (np.abs(weights) / POLES).sum(1)  # of the terms, in a logarithm
    margin = margins.relative * (largest + bonus) + margins.absolute * slopes.sum() + tail * slopes[0]
    tensors: dict[str, NDArray[Any]] = {
        "score_weights": np.column_stack([weights, [bonus, 0, 0]]).astype(np.float32)[:, None, :],
        "score_thresholds": _up(np.append(thresholds + bonus + margin, np.inf)),
        "served_radii": _down(np.append(radii, 0.0)),
        "reason_of_none": np.array(int(Reason.UNSURE if len(radii) else Reason.NOT_CALIBRATED)),
    }
    return [numpy_helper.from_array(value, name) for name, value in tensors.items()]


def served_sigma(graph: onnx.GraphProto) -> float:
    """σ that the constants of a served graph are made for, as exactly as float32 tells.

    Raises:
        ValueError: not a certified graph, or its constants are not those of one σ.
    """
    (from_erf,) = constants_of(graph, "from_erf")
    sigma = float(from_erf) / (np.sqrt(np.pi / 2) * (1 - FLOAT32_MARGINS.relative))
    expected = _sigma_constants(sigma, FLOAT32_MARGINS)
    for value, found in zip(expected.values(), constants_of(graph, *expected), strict=True):
        if value.shape != found.shape or not np.allclose(found, value, rtol=SIGMA_TOLERANCE, atol=0):
            raise ValueError(f"sigma: expected {', '.join(expected)} of one σ, got constants of several")
    return float(sigma)


def constants_of(graph: onnx.GraphProto, *names: str) -> list[NDArray[Any]]:
    """The initializers of these names.

    Raises:
        ValueError: there is none of one of the names.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(f"expected an initializer {missing[0]!r}: not a certified graph")
    return [numpy_helper.to_array(tensors[name]) for name in names]


def serves_map(graph: onnx.GraphProto, radius_map: RadiusMap, *, num_classes: int) -> bool:
    """Whether the certified radii of `graph` are exactly those of `radius_map`; former graphs give no reasons."""
    served = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    expected = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in map_tensors(radius_map, num_classes=num_classes)
        if tensor.name in served or tensor.name != "reason_of_none"
    }
    return all(np.array_equal(served.get(name, np.nan), value) for name, value in expected.items())


def _constants(num_classes: int, sigma: float, margins: Margins) -> dict[str, NDArray[Any]]:
    return {
        **shared_constants(num_classes),
        "smallest_tail": np.float32(2 * _TINY).reshape(()),
        "pick_tails": _pick_tails(num_classes, margins),
        "poles": np.append(POLES, 1e-30).astype(np.float32),
        **_sigma_constants(sigma, margins),
    }


def shared_constants(num_classes: int) -> dict[str, NDArray[Any]]:
    """Constants without σ, in the order that a statistical graph has had before; another certificate uses some."""
    return {
        "zero": np.float32(0).reshape(()),
        "one": np.float32(1).reshape(()),
        "two": np.float32(2).reshape(()),
        "largest": np.float32(np.finfo(np.float32).max).reshape(()),
        "uniform": np.float32(1 / num_classes).reshape(()),
        "invalid_label": np.array(INVALID_LABEL),
        "reason_of_radius": np.array(int(Reason.CALIBRATED)),
        "reason_of_invalid": np.array(int(Reason.INVALID)),
        "reason_of_unlike": np.array(int(Reason.UNLIKE)),
        "index_0": np.array(0),
        "from_0": np.array([0]),
        "to_top": np.array([top_k_of(num_classes)]),
        "classes": np.array([num_classes]),
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "axes_02": np.array([0, 2]),
        "image_axes": np.array([1, 2, 3]),
    }


def _sigma_constants(sigma: float, margins: Margins) -> dict[str, Float32Array]:
    """The constants that σ enters: of the nominal radius, and of the L-bound from radius to erf and back."""
    return {
        "nominal_weights": _nominal_weights(sigma, margins),
        "to_z": _down(np.array(1 / (sigma * np.sqrt(2)) * (1 - margins.relative))),
        "from_erf": _down(np.array(sigma * np.sqrt(np.pi / 2) * (1 - margins.relative))),
    }


def _pick_tails(num_classes: int, margins: Margins) -> Float32Array:
    """Weights [3, 1, K] on the sorted probabilities: their sums are 2q, at least its exact value, 2p₍₁₎ and 2p₍₂₎."""
    weights = np.zeros((3, 1, num_classes))
    weights[0, 0, 1:] = 2 * (1 + (num_classes + 1) * margins.roundoff) if num_classes > 2 else 2
    weights[1, 0, 0] = weights[2, 0, 1] = 2
    return _up(weights)


def _nominal_weights(sigma: float, margins: Margins) -> Float32Array:
    """Weights [3, 1, 9] on the fractions of q, p₍₁₎, p₍₂₎ that sum to σ/2·(A(q) − A(p₍₁₎) + A(p₍₂₎)), rounded down.

    The last fraction is 1 where q < ½ and 0 elsewhere; its weight takes away what the logarithm may be off by.
    """
    weights = np.array((1, -1, 1))[:, None] * np.append(RESIDUES, 0.0)
    weights -= margins.relative * np.abs(weights)
    weights[0, -1] = -margins.absolute
    return _down(sigma / 2 * weights)[:, None, :]


def _down(exact: Float64Array) -> Float32Array:
    rounded = exact.astype(np.float32)
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float32)


def _up(exact: Float64Array) -> Float32Array:
    return -_down(-exact)
