"""The contract of a served model: one definition, which the graph, the repository and the page of it share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from heatserve.export.card import GRAPH_NAME
from heatserve.export.contract import OUTPUT_TENSORS, top_k_of
from heatserve.export.graph.build import certified_graph, with_map
from heatserve.export.graph.certificate import certificate_graph
from heatserve.export.repository.layout import open_model

ROOT = Path(__file__).parents[2]


def network_of(served: onnx.ModelProto) -> onnx.ModelProto:
    """The logits graph that a served graph was made of: what comes before its softmax."""
    model = onnx.ModelProto()
    model.CopyFrom(served)
    graph = model.graph
    nodes = list(graph.node)[: [node.output[0] for node in graph.node].index("softmax")]
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    classes = next(output for output in graph.output if output.name == "probabilities").type.tensor_type.shape.dim[1]
    del graph.node[:], graph.initializer[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", classes.dim_value]))
    return model


def test_the_bytes_of_a_served_graph_are_those_of_the_committed_model() -> None:
    """`digits` was exported with an older check of its pixels; `cifar10` is what an export writes today."""
    model = open_model(ROOT / "model_repository", "cifar10")
    assert model.card.calibration is not None
    served = onnx.load(model.path / GRAPH_NAME)
    again = certified_graph(network_of(served), sigma=model.card.sigma)
    again = with_map(again, model.card.calibration.radius_map)
    assert again.SerializeToString() == (model.path / GRAPH_NAME).read_bytes()


@pytest.mark.parametrize("classes", [2, 5, 1000])
def test_a_graph_has_the_outputs_of_the_contract(classes: int) -> None:
    outputs = certificate_graph(num_classes=classes, sigma=0.25).output
    assert [output.name for output in outputs] == [tensor.name for tensor in OUTPUT_TENSORS]
    for output, tensor in zip(outputs, OUTPUT_TENSORS, strict=True):
        batch, *row = output.type.tensor_type.shape.dim
        assert batch.dim_param == "N"
        assert tuple(dim.dim_value for dim in row) == tensor.shape(classes)
        assert helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type) == tensor.dtype


def test_five_classes_are_named_or_all() -> None:
    assert [top_k_of(classes) for classes in (2, 4, 5, 6, 1000)] == [2, 4, 5, 5, 5]


def test_a_client_may_import_the_contract_with_numpy_only() -> None:
    code = (
        "import sys, heatserve.export.contract; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'google.protobuf', 'pydantic', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
