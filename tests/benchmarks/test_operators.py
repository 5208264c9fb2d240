"""Each operator gives what ONNX Runtime gives, and its gradient is that of finite differences where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from heatserve.benchmarks.attack.differentiable import TorchGraph
from heatserve.export.runtime.session import GraphError, open_session

X = np.random.default_rng(1).uniform(0.1, 0.9, (2, 3, 4, 4)).astype(np.float32)
SMOOTH = ("Sigmoid", "Tanh", "Exp", "Neg", "Sqrt", "Reciprocal", "Sin", "Cos", "Softplus", "Gelu", "Erf", "Abs")
FLOATS, INTS = np.float32, np.int64


def graph_of(operator: str, inputs: list[NDArray[Any]], outputs: int, attributes: dict[str, Any]) -> onnx.ModelProto:
    """The operator on `x` and on constants; what it gives is `y0`, …, as FP32."""
    names = [f"c{index}" for index in range(len(inputs))]
    made = [f"made{index}" for index in range(outputs)]
    nodes = [helper.make_node(operator, ["x", *names], made, **attributes)]
    nodes += [helper.make_node("Cast", [name], [f"y{i}"], to=TensorProto.FLOAT) for i, name in enumerate(made)]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, None) for index in range(outputs)],
        [numpy_helper.from_array(value, name) for value, name in zip(inputs, names, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, INTS)


WEIGHT, BIAS = np.array([0.5, 1.5, 2.0, -1.0], FLOATS), np.array([0.1, 0.2, -0.3, 0.0], FLOATS)


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "attributes"),
    [
        *(
            (name, [], 1, {})
            for name in (*SMOOTH, "Floor", "Identity", "HardSwish", "HardSigmoid", "GlobalAveragePool")
        ),
        ("Gelu", [], 1, {"approximate": "tanh"}),
        ("LeakyRelu", [], 1, {"alpha": 0.3}),
        ("Elu", [], 1, {"alpha": 0.5}),
        ("Pow", [np.array(3.0, FLOATS)], 1, {}),
        ("Less", [np.array(0.5, FLOATS)], 1, {}),
        ("Transpose", [], 1, {"perm": [0, 2, 3, 1]}),
        ("Transpose", [], 1, {}),
        ("Split", [ints(1, 2)], 2, {"axis": 1}),
        ("Split", [], 2, {"axis": 2, "num_outputs": 2}),
        ("LayerNormalization", [WEIGHT, BIAS], 1, {"axis": -1, "epsilon": 1e-6}),
        ("BatchNormalization", [WEIGHT[:3], BIAS[:3], BIAS[1:], WEIGHT[:3]], 1, {}),
        ("Shape", [], 1, {"start": 1}),
        ("Shape", [], 1, {}),
        ("Expand", [ints(2, 1, 1, 1, 4)], 1, {}),
        ("Expand", [ints(4)], 1, {}),
        ("Tile", [ints(1, 2, 1, 3)], 1, {}),
        ("Cast", [], 1, {"to": TensorProto.INT64}),
        ("Slice", [ints(1), ints(2)], 1, {}),
        ("Slice", [ints(0), ints(-1), ints(3), ints(2)], 1, {}),
        ("ReduceL2", [ints(1)], 1, {"keepdims": 0}),
        ("ReduceMean", [ints(2, 3)], 1, {}),
        ("GatherND", [ints(0, 2, 1, 0).reshape(2, 2)], 1, {}),
        ("ScatterND", [ints(0, 2, 1, 0).reshape(2, 2), np.ones((2, 4, 4), FLOATS)], 1, {}),
    ],
)
def test_it_is_what_onnx_runtime_computes(
    operator: str, inputs: list[NDArray[Any]], outputs: int, attributes: dict[str, Any]
) -> None:
    model = graph_of(operator, inputs, outputs, attributes)
    expected = open_session(model.SerializeToString()).run(None, {"x": X})
    found = TorchGraph(model, [f"y{index}" for index in range(outputs)])(torch.from_numpy(X))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", SMOOTH)
def test_its_gradient_is_that_of_finite_differences(operator: str) -> None:
    graph = TorchGraph(graph_of(operator, [], 1, {}), ["made0"])
    assert torch.autograd.gradcheck(lambda x: graph(x)[0], torch.from_numpy(X[:1, :1]).double().requires_grad_())


def test_integers_are_divided_as_onnx_divides_them() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Div", ["shape", "three"], ["third"]),
        helper.make_node(
            "ConstantOfShape", ["third"], ["y"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [7])
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "thirds",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [7, 3, 4, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(ints(3), "three")],
    )
    (found,) = TorchGraph(helper.make_model(graph), ["y"])(torch.zeros(7, 3, 4, 5))
    assert found.shape == (2, 1, 1, 1)
    assert (found == 7).all()


def test_a_form_without_a_gradient_is_named() -> None:
    added = graph_of("ScatterND", [ints(0).reshape(1, 1), X[:1]], 1, {"reduction": "add"})
    with pytest.raises(GraphError, match="ScatterND: no gradient for this reduction"):
        TorchGraph(added, ["y0"])(torch.from_numpy(X))
