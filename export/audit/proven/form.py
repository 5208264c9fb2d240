"""What the operators after the logits of a served graph must be, for its label and its radii to mean what they say.

It is stated here a second time, beside the graph's builder, and compared operator by operator; the names of values do
not matter, but for the input and the outputs, whose names are the contract. Four constants may be any number that is
sound: `slack`, what a margin is multiplied by, what a radius is made smaller by before it becomes float32, and what
logits are multiplied by before their softmax, which must not bring them closer together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

from heatserve.export.audit.proven.pieces import UnprovenError
from heatserve.export.contract import INVALID_LABEL, OUTPUT_NAMES, Reason, top_k_of

_CHECKED_PIXELS = """
    lowest = ReduceMin<keepdims = 0>(image, image_axes)
    highest = ReduceMax<keepdims = 0>(image, image_axes)
    sum = ReduceSum<keepdims = 0>(image, image_axes)
    all = Add(sum, total)
    from_zero = GreaterOrEqual(lowest, zero)
    to_one = LessOrEqual(highest, one)
    finite = LessOrEqual(all, largest)
    inside = And(from_zero, to_one)
    valid = And(inside, finite)
"""
_BYTES = """
    valid = Less(total, two)
"""
_FORM = """
form (float[N] image, double[N,K] logits) => (float[N] label) {{
    sharp = Mul(logits, per_temperature)
    p64 = Softmax<axis = 1>(sharp)
    p32 = Cast<to = 1>(p64)
    total = ReduceSum<keepdims = 0>(p32, axis_1)
    {check}
    rows = Unsqueeze(valid, axis_1)
    probabilities = Where(rows, p32, uniform)
    sorted, order = TopK<axis = 1, largest = 1, sorted = 1>(probabilities, classes)
    top_k = Slice(order, from_0, to_top, axis_1)
    first = Gather<axis = 1>(order, index_0)
    label = Where(valid, first, invalid_label)

    two_largest, places = TopK<axis = 1, largest = 1, sorted = 1>(logits, best_two)
    second = Gather<axis = 1>(two_largest, index_1)
    column = Unsqueeze(first, axis_1)
    own_logits = GatherElements<axis = 1>(logits, column)
    own = Squeeze(own_logits, axis_1)
    margin = Sub(own, second)
    distance = Mul(margin, per_margin)
    left = Sub(distance, slack)

    apart = Greater(distance, nothing)
    is_nominal = And(valid, apart)
    nominal = Where(is_nominal, distance, nothing)
    nominal_down = Mul(nominal, rounds)
    nominal_radius = Cast<to = 1>(nominal_down)

    above = Greater(left, nothing)
    is_certified = And(valid, above)
    certified = Where(is_certified, left, nothing)
    certified_down = Mul(certified, rounds)
    certified_radius = Cast<to = 1>(certified_down)
    l_bound = Identity(certified_radius)
    usual = Where(is_certified, proven, unsure)
    reason = Where(valid, usual, invalid)
}}
"""
_FREE = ("per_margin", "slack", "rounds", "per_temperature")
_MOST = 2.0**20
"""Of `slack` and `per_temperature`. The bound on rounding is at least 2⁻⁵³ of a logit, and less than slack, so that no
product overflows: an image with a logit a little larger than those of another would get NaN, and no class."""


@dataclass(frozen=True)
class ReadForm:
    """What was found in the operators after the logits."""

    logits: str
    """The value of the graph that they begin with."""
    slack: float
    """Taken off each radius."""


def read_form(graph: onnx.GraphProto, *, classes: int, image: str, takes_bytes: bool) -> ReadForm:
    """Compare what leads to the outputs of a graph with the form.

    Args:
        graph: a served one.
        classes: K.
        image: the name of the input.
        takes_bytes: whether it is UINT8, whose values are all valid.

    Raises:
        UnprovenError: it has another form, or a constant that is not sound.
    """
    form = parser.parse_graph(_FORM.format(check=_BYTES if takes_bytes else _CHECKED_PIXELS))
    matching = _Matching(form, _constants(classes), graph, image)
    for name in OUTPUT_NAMES:
        matching.match(name, name)
    free = {name: float(matching.free[name]) for name in _FREE}
    _check(free)
    return ReadForm(matching.names["logits"], free["slack"])


def _check(free: Mapping[str, float]) -> None:
    """That float64 may round a little in between, and float32 a little at the end, and no radius is too large."""
    per_margin = Fraction(free["per_margin"]) * (1 + Fraction(1, 2**50))
    if not per_margin > 0 or 2 * per_margin**2 > 1:
        raise UnprovenError(f"expected margins times at most (1 - 2^-50)/√2, got {free['per_margin']:.17g}")
    if not 0 <= free["rounds"] <= 1 - 2.0**-23:
        raise UnprovenError(f"expected radii times at most 1 - 2^-23 before float32, got {free['rounds']:.17g}")
    if not 0 <= free["slack"] <= _MOST:
        raise UnprovenError(f"slack: expected a number from 0 to 2^20, got {free['slack']}")
    if not 1 <= free["per_temperature"] <= _MOST:
        raise UnprovenError(f"expected logits times 1 to 2^20 before softmax, got {free['per_temperature']:.17g}")


class _Matching:
    """Whether values of a graph are those of the form; what its free constants and the logits are."""

    def __init__(
        self, form: onnx.GraphProto, constants: Mapping[str, NDArray[Any]], graph: onnx.GraphProto, image: str
    ) -> None:
        self.names = {"image": image}
        self.free: dict[str, NDArray[Any]] = {}
        self._constants = constants
        self._of_form, self._of_graph = _makers(form), _makers(graph)
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def match(self, wanted: str, found: str) -> None:
        """That the value `found` of the graph is `wanted` of the form.

        Raises:
            UnprovenError: it is another.
        """
        if self.names.get(wanted, found) != found:
            raise UnprovenError(f"certificate: expected one value as {wanted}, got {self.names[wanted]} and {found}")
        if wanted in self.names:
            return
        self.names[wanted] = found
        if wanted in self._of_form:
            self._match_operators(wanted, found)
        elif wanted != "logits":
            self._match_constants(wanted, found)

    def _match_operators(self, wanted: str, found: str) -> None:
        node, place = self._of_form[wanted]
        other, other_place = self._of_graph.get(found, (onnx.NodeProto(), -1))
        if (_meaning(node), place, len(node.input)) != (_meaning(other), other_place, len(other.input)):
            described = f"{_meaning(node)}, got {_meaning(other)}" if other.op_type else f"{node.op_type}, got none"
            raise UnprovenError(f"certificate: expected {wanted} to be made by {described}")
        for name, other_name in zip(node.input, other.input, strict=True):
            self.match(name, other_name)

    def _match_constants(self, wanted: str, found: str) -> None:
        if found not in self._tensors:
            raise UnprovenError(f"certificate: expected a constant as {wanted}, got {found}")
        value = numpy_helper.to_array(self._tensors[found])
        if wanted in _FREE:
            if value.dtype != np.float64 or value.ndim:
                raise UnprovenError(f"certificate: expected a float64 number as {wanted}, got {value.dtype}")
            self.free[wanted] = value
            return
        expected = self._constants[wanted]
        if value.dtype != expected.dtype or value.shape != expected.shape or not (value == expected).all():
            raise UnprovenError(f"certificate: expected {wanted} to be {expected.tolist()}, got {value.tolist()}")


def _makers(graph: onnx.GraphProto) -> dict[str, tuple[onnx.NodeProto, int]]:
    """For each value, what makes it, and as which of its outputs."""
    return {name: (node, place) for node in graph.node for place, name in enumerate(node.output) if name}


def _meaning(node: onnx.NodeProto) -> tuple[object, ...]:
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return node.domain, node.op_type, tuple(sorted(attributes.items()))


def _constants(classes: int) -> dict[str, NDArray[Any]]:
    single = partial(np.array, dtype=np.float32)
    return {
        "zero": single(0),
        "one": single(1),
        "two": single(2),
        "largest": single(float(np.finfo(np.float32).max)),
        "uniform": single(1 / classes),
        "nothing": np.array(0.0),
        "classes": np.array([classes]),
        "to_top": np.array([top_k_of(classes)]),
        "from_0": np.array([0]),
        "index_0": np.array(0),
        "index_1": np.array(1),
        "axis_1": np.array([1]),
        "image_axes": np.array([1, 2, 3]),
        "best_two": np.array([2]),
        "invalid_label": np.array(INVALID_LABEL),
        "invalid": np.array(int(Reason.INVALID)),
        "proven": np.array(int(Reason.PROVEN)),
        "unsure": np.array(int(Reason.UNSURE)),
    }
