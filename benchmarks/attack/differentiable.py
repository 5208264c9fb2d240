"""An ONNX graph as a torch module, so that an attack has gradients of the very bytes that are served.

It computes what ONNX Runtime computes, up to float32 rounding; whoever draws a conclusion from it evaluates the
inputs that it found with ONNX Runtime itself.

onnx2torch 1.5.15 cannot convert these graphs (opset 18; measured with torch 2.13.0 and onnx 1.23.2). It has no
converter for Pad and ReduceMean of opset 18, which a CIFAR ResNet has before its logits, nor for the comparisons and
reductions of a certificate (GreaterOrEqual and LessOrEqual of opset 16; ReduceL1, ReduceMax and ReduceMin of opset
18), and it refuses a Reshape with `allowzero`, which PyTorch's exporter writes. Of the committed models it converts
only the digits' logits, and those only without that attribute (then equal to within 2·10⁻⁶, with gradients). onnx's
version converter cannot bring Pad down to an older opset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from heatserve.benchmarks.attack.operators import OPERATORS
from heatserve.export.runtime.session import GraphError


class TorchGraph(nn.Module):
    """The function from a graph's one input to named values in it, which need not be its outputs, in their order.

    Raises:
        GraphError: an operator or a form of it that no graph of heatserve's has, or a value that is not there.
    """

    def __init__(self, model: onnx.ModelProto, outputs: Sequence[str]) -> None:
        super().__init__()
        constants = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
        self._constants = constants
        self._input = model.graph.input[0].name
        self._outputs = tuple(outputs)
        self._steps = [_step(node) for node in _needed(model.graph.node, {*outputs}, {self._input, *constants})]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The named values for images FP32 [N, C, H, W]."""
        values = {**self._constants, self._input: images}
        for operator, inputs, outputs, attributes in self._steps:
            results = operator(attributes, *(values[name] if name else None for name in inputs))
            results = results if isinstance(results, tuple) else (results,)
            values.update(zip(outputs, results, strict=False))  # trailing outputs are optional
        return tuple(values[name] for name in self._outputs)


class Logits(nn.Module):
    """From images [N, C, H, W] to the logits [N, K] of a graph of heatserve's, served or base."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._graph = TorchGraph(model, ["logits"])

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        (logits,) = self._graph(images)
        return cast(Tensor, logits)


def _needed(nodes: Sequence[onnx.NodeProto], wanted: set[str], given: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the wanted values depend on, in the graph's order."""
    chosen = []
    for node in reversed(nodes):
        if wanted & {*node.output}:
            chosen.append(node)
            wanted = (wanted - {*node.output}) | {name for name in node.input if name}
    if missing := sorted(wanted - given):
        raise GraphError(f"expected a graph that computes {', '.join(missing)}, found no such value")
    return chosen[::-1]


def _step(node: onnx.NodeProto) -> tuple[Callable[..., Any], list[str], list[str], Mapping[str, Any]]:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type not in OPERATORS or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise GraphError(f"{node.name or node.op_type}: no gradient for the operator {node.op_type} of this form")
    return OPERATORS[node.op_type], [*node.input], [*node.output], attributes
