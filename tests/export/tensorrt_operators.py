"""Which operators TensorRT's ONNX parser takes, with which types, and which nodes of a graph it would refuse.

It stands in for the parser in tests of machines that have none. Where plans are built, the parser itself is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.defs import OpSchema
from onnx.shape_inference import infer_shapes

TABLE = json.loads(Path(__file__).with_name("tensorrt_operators.json").read_text())
_TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16"}
"""The matrix's names of types, where they are not ONNX's."""


@dataclass(frozen=True)
class Rule:
    """What the parser takes of one operator; inputs, outputs and attributes by their names in ONNX's definition."""

    types: list[str]
    """Of every tensor whose type ONNX leaves open."""
    constant: list[str] = field(default_factory=list)
    """Inputs that must be initializers."""
    attributes: Mapping[str, list[Any]] = field(default_factory=dict)
    """Allowed values, or elements."""
    below: Mapping[str, int] = field(default_factory=dict)
    """What no element of a constant input may reach."""
    unused: list[str] = field(default_factory=list)
    """Outputs that nobody may ask for."""


RULES = {name: Rule(**entry) for name, entry in TABLE["operators"].items()}


def unsupported_operators(model: onnx.ModelProto) -> list[str]:
    """What the parser would refuse in a graph, after inference of types and shapes: operator, node and reason."""
    graph = infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {name: tensor.data_type for name, tensor in constants.items()}
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    first, last = TABLE["opsets"]
    outside = [] if first <= opset <= last else [f"opset {opset}: supported are {first} to {last}"]
    return outside + [
        f"{node.op_type} {node.name or node.output[0]!r}: {problem}"
        for node in graph.node
        for problem in _problems(node, opset, types, constants)
    ]


def _problems(
    node: onnx.NodeProto, opset: int, types: Mapping[str, int], constants: Mapping[str, onnx.TensorProto]
) -> Iterator[str]:
    rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is None:
        yield f"not in the table of supported operators, {Path(__file__).with_name('tensorrt_operators.json').name}"
        return
    schema = onnx.defs.get_schema(node.op_type, opset)
    inputs, outputs = dict(_named(schema.inputs, node.input)), dict(_named(schema.outputs, node.output))
    fixed = {constraint.type_param_str for constraint in schema.type_constraints if _is_fixed(constraint)}
    for tensor, formal in (inputs | outputs).items():
        found = _type_name(types.get(tensor, onnx.TensorProto.UNDEFINED))
        if formal.type_str not in fixed and "(" not in formal.type_str and found not in rule.types:
            yield f"{formal.name} is {found}, supported are {', '.join(rule.types)}"
    for tensor, formal in inputs.items():
        if formal.name in rule.constant and tensor not in constants:
            yield f"{formal.name} must be an initializer"
        elif formal.name in rule.below and np.max(numpy_helper.to_array(constants[tensor])) >= rule.below[formal.name]:
            yield f"{formal.name} must be below {rule.below[formal.name]}"
    yield from (f"output {formal.name} is not supported" for formal in outputs.values() if formal.name in rule.unused)
    for attribute in node.attribute:
        allowed = rule.attributes.get(attribute.name)
        if allowed and not set(_values(attribute)) <= set(allowed):
            yield f"{attribute.name} must be of {', '.join(map(str, allowed))}"


def _named(formals: Any, tensors: Any) -> Iterator[tuple[str, OpSchema.FormalParameter]]:
    """Each tensor that is there with its definition; the last definition is that of all further tensors."""
    defined = zip(tensors, chain(formals, repeat(formals[-1])), strict=False)
    return ((tensor, formal) for tensor, formal in defined if tensor)


def _is_fixed(constraint: OpSchema.TypeConstraintParam) -> bool:
    return len(constraint.allowed_type_strs) == 1


def _type_name(elem_type: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(elem_type))
    return _TYPES.get(name, name)


def _values(attribute: onnx.AttributeProto) -> list[Any]:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return [value.decode()]
    return list(value) if isinstance(value, list | tuple) else [value]
