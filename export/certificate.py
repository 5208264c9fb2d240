"""The certificate, as ONNX operators that follow the network's logits inside the served graph (DESIGN.md section 4).

Everything that a sceptic must trust about a served radius is in `_TEMPLATE` and its constants: some 30 operators on a
few numbers an image, all FP32, all deterministic. Three ideas keep them few and safe.

**The quantile.** With w = −log 2m, −Φ⁻¹(m) on 0 < m ≤ ½ is Σⱼ cⱼ·w/(w + aⱼ) within a relative 6e-9 for eight pairs of
*positive* numbers, so float32 evaluates it without cancellation (to a relative 3e-7) and without branches.

**The tails.** It is taken at q = p₍₂₎ + p₍₃₎ + …, p₍₁₎ and p₍₂₎, each clipped to ½, where it is 0: so
Φ⁻¹(p₍₁₎) = A(q) − A(p₍₁₎) on either side of ½, and 1 − p₍₁₎ is a sum, never a difference. A tail of 0 counts as the
smallest normal float: a large, finite radius.

**The margins.** Every weight is a little smaller where a larger value would enlarge a radius, and a little larger where
it would shrink one, by more than float32 can lose in any order of summation. No radius is above its float64 value.

Invalid input (NaN, ±Inf, outside [0,1]) or a network that answers NaN: label −1, uniform probabilities, and radii 0,
because the uniform vector has q ≥ ½.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from certification.radius import Float32Array, Float64Array, RadiusMap

NOT_CALIBRATED = RadiusMap(shift=0.0, cap=0.0)
"""The map of a graph without calibration: every certified radius is 0."""

QUANTILE_POLES = np.array(
    [0.784361773, 1.22474153, 2.43309086, 5.62908186, 14.3952585, 41.0550005, 149.869649, 1557.31108]
)
QUANTILE_RESIDUES = np.array(
    [0.13575963, 0.37229764, 0.66681525, 1.08010537, 1.79456254, 3.3548063, 8.60383857, 72.45075345]
)
"""aⱼ and cⱼ: minimax fit by reweighted non-negative least squares for w up to 86.6; `quantile` evaluates them."""

_TINY = np.finfo(np.float32).tiny
_U = 2.0**-24  # unit roundoff of float32
_RELATIVE = 40 * _U  # 24 terms in any order, their weights, the quotient and the logarithm
_ABSOLUTE = 4e-7  # the logarithm near 1, where fast implementations are accurate in absolute terms only


def quantile(m: Float64Array) -> Float64Array:
    """−Φ⁻¹(m) for 0 < m ≤ ½, in float64, by the formula that the graph evaluates in float32."""
    w = -np.log(2 * m)[..., None]
    return np.asarray((QUANTILE_RESIDUES * w / (w + QUANTILE_POLES)).sum(-1))


_TEMPLATE = """
certificate (float[N,C,H,W] image, float[N,{classes}] logits) => (
    int64[N] label, float[N,{classes}] probabilities, int64[N,{top}] top_k,
    float[N] l_bound, float[N] certified_radius, float[N] nominal_radius)
{{
    inside = Clip(image, zero, one)
    outside = Sub(image, inside)
    distance = ReduceL1<keepdims = 0>(outside, image_axes)
    softmax = Softmax<axis = 1>(logits)
    total = ReduceSum<keepdims = 0>(softmax, axis_1)
    nothing = Sub(total, total)
    valid = Equal(distance, nothing)
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

    certified_terms = Mul(fractions, certificate_weights)
    certified_sum = ReduceSum<keepdims = 0>(certified_terms, axes_02)
    certified_radius = Clip(certified_sum, zero, certificate_cap)
    nominal_terms = Mul(fractions, nominal_weights)
    nominal_sum = ReduceSum<keepdims = 0>(nominal_terms, axes_02)
    nominal_radius = Relu(nominal_sum)
    z = Mul(certified_radius, to_z)
    two_sided = Erf(z)
    l_bound = Mul(two_sided, from_erf)
}}
"""


def certificate_graph(*, num_classes: int, sigma: float) -> onnx.GraphProto:
    """The operators from `image` and `logits` to the six outputs of a served model, not calibrated yet.

    Args:
        num_classes: K ≥ 2.
        sigma: σ of the smoothing noise, on the [0,1] pixel scale.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
    graph = parser.parse_graph(_TEMPLATE.format(classes=num_classes, top=min(5, num_classes)))
    for name, value in _constants(num_classes, sigma).items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    graph.initializer.extend(map_tensors(NOT_CALIBRATED, sigma=sigma))
    return graph


def map_tensors(radius_map: RadiusMap, *, sigma: float) -> list[onnx.TensorProto]:
    """The two initializers that calibration replaces: they serve σ·min(Φ⁻¹(p₍₁₎) − shift, cap), 0 if negative."""
    if not (0 <= radius_map.shift < np.inf and 0 <= radius_map.cap < np.inf):
        raise ValueError(f"radius_map: expected a finite shift and cap ≥ 0, got {radius_map}")
    weights = _weights(sigma, (1, 0, 0), radius_map.shift)
    cap = _down(np.array(sigma * radius_map.cap * (1 - _RELATIVE)))
    return [numpy_helper.from_array(weights, "certificate_weights"), numpy_helper.from_array(cap, "certificate_cap")]


def serves_map(graph: onnx.GraphProto, radius_map: RadiusMap, *, sigma: float) -> bool:
    """Whether the certified radii of `graph` are exactly those of `radius_map`."""
    served = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in map_tensors(radius_map, sigma=sigma)}
    return all(np.array_equal(served.get(name, np.nan), value) for name, value in expected.items())


def _constants(num_classes: int, sigma: float) -> dict[str, NDArray[Any]]:
    return {
        "zero": np.float32(0).reshape(()),
        "one": np.float32(1).reshape(()),
        "uniform": np.float32(1 / num_classes).reshape(()),
        "invalid_label": np.array(-1),
        "index_0": np.array(0),
        "from_0": np.array([0]),
        "to_top": np.array([min(5, num_classes)]),
        "classes": np.array([num_classes]),
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "axes_02": np.array([0, 2]),
        "image_axes": np.array([1, 2, 3]),
        "smallest_tail": np.float32(2 * _TINY).reshape(()),
        "pick_tails": _pick_tails(num_classes),
        "poles": np.append(QUANTILE_POLES, 1e-30).astype(np.float32),
        "nominal_weights": _weights(sigma / 2, (1, -1, 1), 0.0),
        "to_z": _down(np.array(1 / (sigma * np.sqrt(2)) * (1 - _RELATIVE))),
        "from_erf": _down(np.array(sigma * np.sqrt(np.pi / 2) * (1 - _RELATIVE))),
    }


def _pick_tails(num_classes: int) -> Float32Array:
    """Weights [3, 1, K] on the sorted probabilities that give 2q, 2p₍₁₎, 2p₍₂₎; 2q at least its exact value."""
    weights = np.zeros((3, 1, num_classes))
    weights[0, 0, 1:] = 2 * (1 + (num_classes + 1) * _U) if num_classes > 2 else 2
    weights[1, 0, 0] = weights[2, 0, 1] = 2
    return _up(weights)


def _weights(scale: float, signs: tuple[int, int, int], shift: float) -> Float32Array:
    """Weights [3, 1, J + 1] on the fractions of q, p₍₁₎, p₍₂₎ that sum to scale·(±A(q) ± A(p₍₁₎) ± A(p₍₂₎) − shift).

    Rounded down. The last fraction is 1 where q < ½ and 0 elsewhere: a constant, in the same sum.
    """
    weights = np.array(signs)[:, None] * np.append(QUANTILE_RESIDUES, 0.0)
    weights -= _RELATIVE * np.abs(weights)
    weights[0, -1] = -(shift * (1 + _RELATIVE) + _ABSOLUTE)
    return _down(scale * weights)[:, None, :]


def _down(exact: Float64Array) -> Float32Array:
    rounded = exact.astype(np.float32)
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float32)


def _up(exact: Float64Array) -> Float32Array:
    return -_down(-exact)
