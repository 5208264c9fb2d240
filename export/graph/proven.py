"""The certificate of a 1-Lipschitz network, as ONNX operators that follow its logits (docs/served-graph.md).

Where the logits of two images at distance r (L2) differ by at most r (L2), the difference of two logits differs by at
most √2·r. So no image within (f_a − max_b f_b)/√2 of one that is answered with class a is answered with another
(Tsuzuku et al., "Lipschitz-Margin Training", 2018). The arithmetic is float64. `slack` is taken off: what rounding can
do to the logits of this image and of the other, and what two logits must be apart for their probabilities to be.

An image that is invalid, or that the network answers with NaN, gets label −1, uniform probabilities and radii 0. A
margin that is not a number is not positive, and gives radius 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from heatserve.export.card_parts import LEAST_TEMPERATURE
from heatserve.export.contract import Reason
from heatserve.export.graph.certificate import CHECKS, constants_of, shared_constants, signature

PER_MARGIN = (1 - 2.0**-40) / np.sqrt(2)
"""What a margin is multiplied by: less than 1/√2 by more than float64 rounds."""
_FLOAT32_ROUNDS = 1 - 2.0**-22
"""Radii are made smaller by more than float32 may round up."""

_TEMPLATE = """
certificate ({image} image, double[N,{classes}] logits) => ({outputs})
{{
    sharpened = Mul(logits, per_temperature)
    exact_softmax = Softmax<axis = 1>(sharpened)
    softmax = Cast<to = 1>(exact_softmax)
    total = ReduceSum<keepdims = 0>(softmax, axis_1)
    {check}
    valid_row = Unsqueeze(valid, axis_1)
    probabilities = Where(valid_row, softmax, uniform)

    descending, order = TopK<axis = 1, largest = 1, sorted = 1>(probabilities, classes)
    top_k = Slice(order, from_0, to_top, axis_1)
    first = Gather<axis = 1>(order, index_0)
    label = Where(valid, first, invalid_label)

    largest_logits, places = TopK<axis = 1, largest = 1, sorted = 1>(logits, best_two)
    others = Gather<axis = 1>(largest_logits, index_1)
    first_column = Unsqueeze(first, axis_1)
    own_column = GatherElements<axis = 1>(logits, first_column)
    own = Squeeze(own_column, axis_1)
    margin = Sub(own, others)
    distance = Mul(margin, per_margin)
    backed = Sub(distance, slack)

    is_apart = Greater(distance, exact_zero)
    is_nominal = And(valid, is_apart)
    nominal = Where(is_nominal, distance, exact_zero)
    nominal_down = Mul(nominal, rounds)
    nominal_radius = Cast<to = 1>(nominal_down)

    is_backed = Greater(backed, exact_zero)
    is_certified = And(valid, is_backed)
    certified = Where(is_certified, backed, exact_zero)
    certified_down = Mul(certified, rounds)
    certified_radius = Cast<to = 1>(certified_down)
    l_bound = Identity(certified_radius)

    usual = Where(is_certified, reason_proven, reason_unsure)
    reason = Where(valid, usual, reason_of_invalid)
}}
"""


def proven_certificate(
    *, num_classes: int, slack: float, temperature: float, check_image: bool = True
) -> onnx.GraphProto:
    """The operators from `image` and `logits` DOUBLE [N, K] to the outputs of a served model.

    Args:
        num_classes: K ≥ 2.
        slack: what is taken off each radius (L2, pixels in [0,1]).
        temperature: T of softmax(logits / T), at most 1, so that what is apart stays so, and at least 2⁻²⁰, so that no
            logit overflows. It moves no radius.
        check_image: as for `certificate_graph`.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
    if not 0 <= slack < np.inf:
        raise ValueError(f"slack: expected a finite number of at least 0, got {slack}")
    if not LEAST_TEMPERATURE <= temperature <= 1:
        raise ValueError(f"temperature: expected a number from 2^-20 to 1, got {temperature}")
    image, check = CHECKS[check_image]
    graph = parser.parse_graph(
        _TEMPLATE.format(image=image, check=check, classes=num_classes, outputs=signature(num_classes))
    )
    constants: dict[str, NDArray[Any]] = shared_constants(num_classes) | {
        "best_two": np.array([2]),
        "index_1": np.array(1),
        "exact_zero": np.array(0.0),
        "per_margin": np.array(PER_MARGIN),
        "slack": np.array(float(slack)),
        "per_temperature": np.array(1 / temperature),
        "rounds": np.array(_FLOAT32_ROUNDS),
        "reason_proven": np.array(int(Reason.PROVEN)),
        "reason_unsure": np.array(int(Reason.UNSURE)),
    }
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items() if name in used)
    return graph


def served_slack(graph: onnx.GraphProto) -> float:
    """What a served graph takes off each radius.

    Raises:
        ValueError: it has another certificate than this.
    """
    slack, per_margin = constants_of(graph, "slack", "per_margin")
    if float(per_margin) != PER_MARGIN:
        raise ValueError(f"per_margin: expected {PER_MARGIN}, got {per_margin}")
    return float(slack)


def served_temperature(graph: onnx.GraphProto) -> float:
    """T of the softmax of a served graph.

    Raises:
        ValueError: it has another certificate than this.
    """
    (per_temperature,) = constants_of(graph, "per_temperature")
    return 1 / float(per_temperature)
