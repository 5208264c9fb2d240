"""The contract of a served model: one definition, which the graph, the repository and the page of it share."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper
from pydantic import BaseModel

from heatserve.export import card as cards
from heatserve.export import card_parts
from heatserve.export.card import GRAPH_NAME
from heatserve.export.contract import OUTPUT_TENSORS, top_k_of
from heatserve.export.digest import DIGEST
from heatserve.export.graph.build import IR_VERSION, OPSET, certified_graph, with_map
from heatserve.export.graph.certificate import certificate_graph
from heatserve.export.graph.names import NETWORK_PREFIX
from heatserve.export.repository.layout import MAX_BATCH_SIZE, open_model

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "served-graph.md").read_text()


def table(heading: str, first_column: str) -> list[list[str]]:
    """The rows of all tables under a heading of the page whose first column has that name."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, flags=re.S | re.M)
    tables = re.findall(rf"^\| {first_column} \|.*\n\|[-|]+\n((?:\|.*\n)+)", section, flags=re.M)
    return [[cell.strip() for cell in row.strip("|").split("|")] for rows in tables for row in rows.splitlines()]


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


def without_prefix(served: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, its network's names as they were before the prefix."""
    for node in served.graph.node:
        if node.name:
            node.name = node.name.removeprefix(NETWORK_PREFIX)
        node.input[:] = [name.removeprefix(NETWORK_PREFIX) for name in node.input]
        node.output[:] = [name.removeprefix(NETWORK_PREFIX) for name in node.output]
    for value in (*served.graph.initializer, *served.graph.value_info):
        value.name = value.name.removeprefix(NETWORK_PREFIX)
    return served


def test_the_bytes_of_a_served_graph_are_those_of_the_committed_model() -> None:
    """`digits` was exported with an older check of its pixels, `cifar10` before the names of networks had a prefix."""
    model = open_model(ROOT / "model_repository", "cifar10")
    assert model.card.calibration is not None
    served = onnx.load(model.path / GRAPH_NAME)
    again = certified_graph(network_of(served), sigma=model.card.sigma)
    again = with_map(again, model.card.calibration.radius_map, model.card.calibration.guard)
    assert without_prefix(again).SerializeToString() == (model.path / GRAPH_NAME).read_bytes()


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


def test_the_page_lists_the_outputs_of_the_contract() -> None:
    rows = [row[:3] for row in table("Outputs", "output")]
    assert rows == [
        [f"`{tensor.name}`", tensor.datatype, f"[{', '.join(('N', *tensor.axes))}]"] for tensor in OUTPUT_TENSORS
    ]


def test_the_page_lists_every_field_of_a_card() -> None:
    parts = [
        part
        for part in (vars(cards) | vars(card_parts)).values()
        if isinstance(part, type) and issubclass(part, BaseModel)
    ]
    fields = {DIGEST}.union(*(part.model_fields for part in parts))
    listed = {name for row in table("The certificate card", "field") for name in re.findall(r"`(\w+)`", row[0])}
    assert {"promise", "spoofed", "tf32"} < fields
    assert f"| `format` | version of this format: {cards.Card.model_fields['format'].default} |" in PAGE
    assert listed <= fields
    assert fields <= set(re.findall(r"`(\w+)`", PAGE))


def test_the_page_states_the_versions_and_the_limit() -> None:
    assert f"ONNX opset {OPSET} and IR version {IR_VERSION}" in PAGE
    assert f"at most {MAX_BATCH_SIZE} images" in PAGE


def test_the_example_of_the_page_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\[ ?\d+ -1\] \[[\d.]+ +0\. *\]\n", done.stdout), done.stdout
