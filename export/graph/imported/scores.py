"""Which value of somebody's network are the scores of the classes, and what comes after it that is not needed."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from heatserve.export.graph.imported.errors import OnnxFileError, node_in_words, quoted

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_PASSING = ("Identity", "Dropout", "Cast")
"""Operators that leave scores as they are, up to their type."""
_LABELS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints", "cats_strings", "cats_int64s")
_SOFTMAX = ("Softmax", "LogSoftmax")


@dataclass(frozen=True)
class Scores:
    """The value in a network that its classes are read from."""

    output: str
    """The value that the file answers with: logits, or probabilities."""
    value: str
    """The value that is kept, before a softmax."""
    removed: str | None
    """The operator between both that is not kept: Softmax, LogSoftmax or Sigmoid."""
    labels: tuple[str, ...] | None
    """The classes as the file names them; None: it does not."""


def find_scores(path: object, model: onnx.ModelProto, *, output: str | None) -> Scores:
    """The scores among the outputs of a network: all outputs that are labels are left out.

    Args:
        path: the file, for messages.
        model: read by `read_onnx`.
        output: the output to take; None: the only one that can be scores.

    Raises:
        OnnxFileError: none of the outputs can be scores, or several, or independent answers; names them.
    """
    outputs = [value for value in model.graph.output if output in (None, value.name)]
    producers = {name: node for node in model.graph.node for name in node.output}
    found = [scores for value in outputs if (scores := _scores_of(path, value, producers))]
    names = ", ".join(quoted(value.name) for value in model.graph.output) or "none"
    if not outputs and output is not None:
        raise OnnxFileError(f"{path}: expected the output {quoted(output)}, got {names}")
    if not found:
        raise OnnxFileError(
            f"{path}: expected an output of logits or probabilities [N, K], got {names}; a file that answers with "
            "classes alone has none"
        )
    if len({scores.value for scores in found}) > 1:
        several = ", ".join(quoted(scores.output) for scores in found)
        raise OnnxFileError(f"{path}: expected one output of scores, got {several}; name one with --output")
    return found[0]


def _scores_of(path: object, value: onnx.ValueInfoProto, producers: dict[str, NodeProto]) -> Scores | None:
    """The scores that an output is made of; None where it cannot be scores."""
    name, labels = value.name, None
    if value.type.WhichOneof("value") != "tensor_type":
        node = producers.get(name)
        if node is None or node.op_type != "ZipMap":
            return None
        name, labels = node.input[0], _labels(node)
    elif value.type.tensor_type.elem_type not in _FLOATS:
        return None
    output, passed = name, _passed(name, producers)
    last = producers.get(passed)
    labels = labels or _labels_before(passed, producers)
    if last is None or last.op_type not in (*_SOFTMAX, "Sigmoid"):
        return Scores(output, passed, None, labels)
    if last.op_type in _SOFTMAX and not _over_classes(last):
        raise OnnxFileError(
            f"{path}: {node_in_words(last)}: expected a softmax over the classes, axis 1 or the last one"
        )
    return Scores(output, last.input[0], last.op_type, labels)


def _passed(name: str, producers: dict[str, NodeProto]) -> str:
    """The value that `name` is a copy of, in whatever type."""
    while (node := producers.get(name)) is not None and node.op_type in _PASSING and name == node.output[0]:
        if node.op_type == "Cast" and node.attribute[0].i not in _FLOATS:
            break
        name = node.input[0]
    return name


def _over_classes(node: NodeProto) -> bool:
    """Whether a softmax of opset 18 normalises axis 1, or the last one, which is the same for [N, K]."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    return axis in (1, -1)


def _labels(node: NodeProto) -> tuple[str, ...] | None:
    """The classes that an operator names, in the order of its scores."""
    for attribute in node.attribute:
        if attribute.name in _LABELS and attribute.type == AttributeProto.STRINGS and attribute.strings:
            return tuple(label.decode(errors="replace") for label in attribute.strings)
        if attribute.name in _LABELS and attribute.ints:
            return tuple(map(str, attribute.ints))
    return None


def _labels_before(name: str, producers: dict[str, NodeProto]) -> tuple[str, ...] | None:
    """The classes that the classifier before a value names, if that is one operator of scikit-learn's."""
    while (node := producers.get(name)) is not None and node.domain and node.input:
        if labels := _labels(node):
            return labels
        name = node.input[0]
    return None
