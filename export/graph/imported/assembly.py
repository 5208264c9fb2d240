"""The logits graph around somebody's network: operators before its input, and after its scores, for any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from heatserve.certification.radius import Float64Array
from heatserve.export.graph.imported.errors import OnnxFileError
from heatserve.export.graph.imported.pixels import NetworkInput
from heatserve.export.graph.imported.reading import CLASSICAL

SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
"""What a probability counts as at least, before its logarithm is taken: the smallest normal float32."""
SCORE_NODES = "scores"
"""What the names of the operators begin with that make logits of the scores of a file."""
_OWN = "file."
"""What the names of the file begin with in the logits graph, so that none is one of ours."""
Step = tuple[str, list[NDArray[Any]], dict[str, Any]]
"""An operator, the constants that are its inputs after the first, and its attributes."""


def flattened(answers: NDArray[Any]) -> Float64Array:
    """Scores [n, K, 1, …] or [n] as float64 [n, K]."""
    return answers.astype(np.float64).reshape(len(answers), -1)


def softmax(logits: Float64Array) -> Float64Array:
    """Probabilities [n, K]."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Float64Array = powers / powers.sum(1, keepdims=True)
    return probabilities


def _shares(probabilities: Float64Array) -> Float64Array:
    floored = probabilities.clip(SMALLEST_PROBABILITY)
    shares: Float64Array = floored / floored.sum(1, keepdims=True)
    return shares


@dataclass(frozen=True)
class ScoreRule:
    """What the scores of a file are, and how logits are made of them."""

    said: str
    """What is done, for a sentence."""
    probabilities: Callable[[Float64Array], Float64Array]
    """The probabilities [n, K] that the file's own answers stand for."""
    steps: tuple[Step, ...] = ()
    """The operators from the scores, FP32 [N, K], to `logits`."""


LOGITS = ScoreRule("logits", softmax)
SOFTMAX = ScoreRule("the logits before its Softmax, which is removed", _shares)
LOG_SOFTMAX = ScoreRule("the logits before its LogSoftmax, which is removed", softmax)
PROBABILITIES = ScoreRule(
    f"probabilities, whose logarithm is taken, below {SMALLEST_PROBABILITY:.3g} that of this number",
    _shares,
    (("Clip", [np.array(SMALLEST_PROBABILITY, np.float32)], {}), ("Log", [], {})),
)
BINARY = ScoreRule(
    "the score of the second of two classes before its Sigmoid, which is removed; that of the first is 0",
    lambda second: np.concatenate([1 - second, second], axis=1),
    (("Mul", [np.array([[0, 1]], np.float32)], {}),),
)


def assembled(
    path: object, model: onnx.ModelProto, taken: NetworkInput, value: str, rule: ScoreRule, *, axes: int, classes: int
) -> onnx.ModelProto:
    """`image` FP32 [N, C, H, W] in [0,1] → `logits` FP32 [N, K].

    Args:
        path: the file, for messages.
        model: the network, in opset 18, as `reading.converted` returns it.
        taken: its input.
        value: its scores.
        rule: what makes logits of them.
        axes: how many axes they have, 2 for [N, K].
        classes: K.

    Raises:
        OnnxFileError: the types or shapes within do not fit.
    """
    model = _for_any_batch(model, taken) if taken.batch else model
    needed, wanted = _needed(model.graph, value)
    network = onnx.ModelProto()
    network.CopyFrom(model)
    graph = network.graph
    del graph.node[:], graph.initializer[:], graph.input[:], graph.output[:], graph.value_info[:]
    constants = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    before, its_constants = chain([*taken.steps()], first="image", last=_OWN + taken.name, named="preprocessing")
    steps: list[Step] = [*([("Flatten", [], {"axis": 1})] if axes != 2 else []), *_cast(model, value), *rule.steps]
    after, more_constants = chain(steps, first=_OWN + value, last="logits", named=SCORE_NODES)
    graph.node.extend([*before, *map(_renamed_node, needed), *after])
    graph.initializer.extend([*its_constants, *map(_renamed_constant, constants), *more_constants])
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *taken.image_shape]))
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes]))
    graph.name = "network"
    if not any(node.domain == CLASSICAL for node in needed):
        del network.opset_import[1:]
    try:
        onnx.checker.check_model(network, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise OnnxFileError(f"{path}: types or shapes do not fit: {' '.join(str(error).split())[:500]}") from None
    return network


def chain(steps: list[Step], *, first: str, last: str, named: str) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes one after the other from the value `first` to the value `last`, and their constants."""
    nodes, constants, value = list[NodeProto](), list[TensorProto](), first
    for index, (operator, arrays, attributes) in enumerate(steps or [("Identity", [], {})]):
        names = [f"{named}.{index}.{number}" for number in range(len(arrays))]
        constants += [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
        made = last if index >= len(steps) - 1 else f"{named}.{index}"
        nodes.append(helper.make_node(operator, [value, *names], [made], f"{named}.{index}.{operator}", **attributes))
        value = made
    return nodes, constants


def _cast(model: onnx.ModelProto, value: str) -> Iterator[Step]:
    """To FP32, unless the value is known to be."""
    shaped = onnx.shape_inference.infer_shapes(model).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*shaped.value_info, *shaped.output)}
    if types.get(value) != TensorProto.FLOAT:
        yield "Cast", [], {"to": TensorProto.FLOAT}


def _needed(graph: onnx.GraphProto, value: str) -> tuple[list[NodeProto], set[str]]:
    """The nodes that a value is computed with, in order, and the names of all that they read."""
    wanted, nodes = {value}, list[NodeProto]()
    for node in reversed(graph.node):
        if wanted & {*node.output}:
            nodes.append(node)
            wanted |= {*node.input}
    return nodes[::-1], wanted


def _renamed_node(node: NodeProto) -> NodeProto:
    renamed = NodeProto()
    renamed.CopyFrom(node)
    renamed.input[:] = [_OWN + name if name else "" for name in node.input]
    renamed.output[:] = [_OWN + name if name else "" for name in node.output]
    renamed.name = _OWN + (node.name or next(iter(node.output)))
    return renamed


def _renamed_constant(tensor: TensorProto) -> TensorProto:
    renamed = TensorProto()
    renamed.CopyFrom(tensor)
    renamed.name = _OWN + tensor.name
    return renamed


def _for_any_batch(model: onnx.ModelProto, taken: NetworkInput) -> onnx.ModelProto:
    """A network of one size of batch, for any: where that size begins a constant shape, it is that of the input."""
    shaped = onnx.shape_inference.infer_shapes(model).graph
    batched = _batched(shaped, taken)
    free = onnx.ModelProto()
    free.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in free.graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in free.graph.node if node.op_type == "Constant"}
    for node in free.graph.node:
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" and node.input[0] in batched else None
        if shape is None:
            continue
        sizes = numpy_helper.to_array(shape).copy()
        if sizes.size and sizes[0] == taken.batch and (sizes != 0).all():
            sizes[0] = 0  # that of the first axis of what is reshaped
            node.input[1] = f"{node.output[0]}.shape"
            free.graph.initializer.append(numpy_helper.from_array(sizes, node.input[1]))
            del node.attribute[:]  # `allowzero`, with which 0 would be 0
    return free


def _batched(shaped: onnx.GraphProto, taken: NetworkInput) -> set[str]:
    """The values that depend on the input, and have its batch as their first axis as far as is known."""
    firsts = {
        info.name: info.type.tensor_type.shape.dim[0].dim_value
        for info in shaped.value_info
        if info.type.tensor_type.shape.dim
    }
    reached = {taken.name}
    for node in shaped.node:
        if reached & {*node.input}:
            reached |= {*node.output}
    return {name for name in reached if firsts.get(name, taken.batch) in (0, taken.batch)}
