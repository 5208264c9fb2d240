"""The network and the certificate of a served graph, read from its bytes alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from heatserve.export.audit.proven.form import ReadForm, read_form
from heatserve.export.audit.proven.pieces import ReadNetwork, UnprovenError
from heatserve.export.audit.proven.walk import Walk
from heatserve.export.contract import OUTPUT_TENSORS
from heatserve.export.graph.build import OPSET


@dataclass(frozen=True)
class ReadGraph:
    """What a served graph computes."""

    network: ReadNetwork
    slack: float
    input_shape: tuple[int, int, int]
    """C, H, W."""
    takes_bytes: bool
    """UINT8 [N, H, W, C], which are divided by 255."""

    @property
    def classes(self) -> int:
        """K."""
        return len(self.network.logits)

    @property
    def pixels(self) -> int:
        """d."""
        return math.prod(self.input_shape)


def read_graph(content: bytes) -> ReadGraph:
    """Read a served graph with a deterministic certificate.

    Raises:
        UnprovenError: something in it is not known to be what proves a radius.
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    versions = [(entry.domain, entry.version) for entry in model.opset_import]
    if versions != [("", OPSET)] or model.functions or graph.sparse_initializer:
        raise UnprovenError(f"graph: expected operators of ONNX's opset {OPSET} and dense constants only, got others")
    (image,) = graph.input if len(graph.input) == 1 else [onnx.ValueInfoProto()]
    kind = image.type.tensor_type.elem_type
    sizes = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8) or len(sizes) != 4 or sizes[0]:
        raise UnprovenError("image: expected FP32 [N, C, H, W] or UINT8 [N, H, W, C] as the only input, got others")
    if not all(sizes[1:]):
        raise UnprovenError("image: expected a fixed height and width, got pictures that the graph resizes")
    takes_bytes = kind == onnx.TensorProto.UINT8
    outputs = {output.name: output.type.tensor_type.elem_type for output in graph.output}
    if [*outputs] != [tensor.name for tensor in OUTPUT_TENSORS]:
        raise UnprovenError(f"outputs: expected those of the contract, got {', '.join(outputs)}")
    classes = next(output for output in graph.output if output.name == "probabilities").type.tensor_type.shape.dim[1]
    form = read_form(graph, classes=classes.dim_value, image=image.name, takes_bytes=takes_bytes)
    network = _network(graph, image.name, sizes[1:], form, takes_bytes=takes_bytes)
    if len(network.logits) != classes.dim_value:
        raise UnprovenError(f"logits: expected {classes.dim_value}, got {len(network.logits)}")
    shape = (sizes[3], sizes[1], sizes[2]) if takes_bytes else (sizes[1], sizes[2], sizes[3])
    return ReadGraph(network, form.slack, shape, takes_bytes)


def _network(graph: onnx.GraphProto, image: str, sizes: list[int], form: ReadForm, *, takes_bytes: bool) -> ReadNetwork:
    nodes = _leading_to(graph, form.logits)
    if takes_bytes:
        nodes, image = _after_division(graph, nodes, image)
        sizes = [sizes[2], sizes[0], sizes[1]]
    walk = Walk(graph, image_shape=tuple(sizes), image=image)
    for node in nodes:
        walk.read(node)
    return walk.network(form.logits)


def _leading_to(graph: onnx.GraphProto, wanted: str) -> list[onnx.NodeProto]:
    """The operators that a value depends on, in their order."""
    needed, chosen = {wanted}, []
    for node in reversed(graph.node):
        if needed & {*node.output}:
            chosen.append(node)
            needed |= {*node.input}
    return chosen[::-1]


def _after_division(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], image: str
) -> tuple[list[onnx.NodeProto], str]:
    """The operators after the first three, which make FP32 [N, C, H, W] in [0,1] of bytes; and their result."""
    cast, transpose, divide = nodes[:3]
    kinds = [node.op_type for node in nodes[:3]]
    chained = [cast.input[0], transpose.input[0], divide.input[0]] == [image, cast.output[0], transpose.output[0]]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    white = constants.get(divide.input[-1], np.zeros(0))
    attributes = [[list(item.ints) or item.i for item in node.attribute] for node in nodes[:3]]
    if kinds != ["Cast", "Transpose", "Div"] or not chained or attributes != [[1], [[0, 3, 1, 2]], []]:
        raise UnprovenError("image: expected bytes to be cast to float32, transposed and divided, got other operators")
    if white.dtype != np.float32 or white.ndim or white != 255:
        raise UnprovenError(f"image: expected bytes to be divided by 255, got {white}")
    if any(name in (image, cast.output[0], transpose.output[0]) for node in nodes[3:] for name in node.input):
        raise UnprovenError("image: expected the network to see the divided bytes only")
    return nodes[3:], divide.output[0]
