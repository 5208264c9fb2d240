"""Names inside a served graph: the network's begin with a prefix, so that none is one of the certificate's.

torch's exporter names a value after the operator that makes it, and a network with attention has a value `softmax`, as
the certificate has. ONNX forbids that two nodes of a graph write the same name.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

NETWORK_PREFIX = "network."
"""What every name of the network begins with, but for `image`, `logits`, and what comes before `pixels`."""
_INTERFACE = frozenset({"", "image", "logits"})  # an optional input that is left out has the name ""


def with_network_prefix(logits: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, the names of its nodes, values and constants prefixed, also those in its subgraphs.

    A graph whose names are prefixed already is left as it is.

    Args:
        logits: from `image` to `logits`. Where `image` is UINT8, what computes `pixels` of it keeps its names.
    """
    model = onnx.ModelProto()
    model.CopyFrom(logits)
    kept = _INTERFACE | _before_pixels(model.graph)
    names = {name for graph in subgraphs(model.graph) for name in _names(graph)} - kept
    if not all(name.startswith(NETWORK_PREFIX) for name in names):
        for graph in subgraphs(model.graph):
            _rename(graph, names)
    return model


def _before_pixels(graph: onnx.GraphProto) -> frozenset[str]:
    """The names of everything that `pixels` depends on, and of itself; empty where `image` is FP32."""
    if graph.input[0].type.tensor_type.elem_type != onnx.TensorProto.UINT8:
        return frozenset()
    wanted, names = {"pixels"}, {"pixels"}
    for node in reversed(graph.node):
        if wanted & {*node.output}:
            wanted |= {*node.input}
            names |= {node.name, *node.input, *node.output}
    return frozenset(names)


def subgraphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    """A graph and the bodies of its branches and loops, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from subgraphs(body)


def _names(graph: onnx.GraphProto) -> Iterable[str]:
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield value.name
    for sparse in graph.sparse_initializer:
        yield sparse.values.name


def _rename(graph: onnx.GraphProto, names: set[str]) -> None:
    def renamed(name: str) -> str:
        return NETWORK_PREFIX + name if name in names else name

    for node in graph.node:
        if node.name:
            node.name = renamed(node.name)
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
    values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for value in (*values, *(sparse.values for sparse in graph.sparse_initializer)):
        value.name = renamed(value.name)
    del graph.quantization_annotation[:]  # remarks about values, by names of before
