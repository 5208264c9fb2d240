"""The conformance suite: engines that mean the same pass it, and one that means something else does not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper
from rich.console import Console
from typer.testing import CliRunner

from heatserve.cli import app
from heatserve.commands.conformance import BROKEN
from heatserve.export.graph.certificate import Margins, certificate_graph, map_tensors
from heatserve.export.runtime.session import GraphError, Runner
from heatserve.serving.conformance.conform import conform, conform_all, examine, standard_probes
from heatserve.serving.conformance.engine import Engine, EngineMissingError
from heatserve.serving.conformance.engines import ALL_ENGINES, on_accelerator, with_plan
from heatserve.serving.conformance.findings import Findings
from heatserve.serving.conformance.probe import FP32, REACH, UINT8, Probe, probe
from heatserve.serving.conformance.promises import check_promises
from heatserve.serving.conformance.report import conformance_table

PROBES = standard_probes(seed=0)
GUARDED = next(one for one in PROBES if one.guard)


@pytest.mark.parametrize(
    ("engine", "examples"), [("onnxruntime", 300), ("onnxruntime without optimisations", 300), ("onnx reference", 40)]
)
def test_an_engine_that_means_the_same_passes(engine: str, examples: int) -> None:
    findings = conform(ALL_ENGINES[engine], PROBES, examples=examples, seed=1)
    assert findings.passed, findings
    assert findings.positive > examples / 4  # radii that could have been too large
    for promise in ("invalid input", "certified_radius", "nominal_radius of use", "alone as in a batch"):
        assert findings.promises[promise].cases > 0


@cache
def _running(classes: int) -> tuple[Probe, Runner]:
    one = next(one for one in PROBES if one.classes == classes and one.radius_map.radii)
    return one, ALL_ENGINES["onnxruntime"](one).__enter__()


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([2, 10]))
def test_no_logits_whatever_break_a_promise(data: st.DataObject, classes: int) -> None:
    one, answer = _running(classes)
    numbers = st.floats(-REACH, REACH, width=32)
    logits = data.draw(arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(classes)), elements=numbers))
    images = FP32.encode(logits)
    checks = list(check_promises(one, images, FP32.decode(images), answer(images)))
    assert len(checks) > 5
    assert all(check.kept.all() for check in checks), checks


def test_images_encode_logits_exactly() -> None:
    logits = np.random.default_rng(0).uniform(-REACH, REACH, (50, 7)).astype(np.float32)
    np.testing.assert_array_equal(FP32.decode(FP32.encode(logits)), logits)
    assert np.abs(UINT8.decode(UINT8.encode(logits)) - logits).max() <= REACH / 255 / 2 * 1.001


@pytest.mark.slow
def test_triton_means_the_same() -> None:
    """The whole way over gRPC: FP32 with ten classes, with a guard, and UINT8."""
    chosen = [PROBES[3], GUARDED, next(one for one in PROBES if one.encoding is UINT8)]
    findings = conform(ALL_ENGINES["triton"], chosen, examples=100, seed=2)
    assert findings.passed, findings
    assert findings.promises["invalid input"].cases > 10


def tampered(change: Callable[[onnx.GraphProto, dict[str, onnx.TensorProto]], object]) -> Findings:
    """What is found where ONNX Runtime answers with a changed graph."""

    @contextmanager
    def engine(one: Probe) -> Iterator[Runner]:
        model = onnx.load_from_string(one.graph)
        change(model.graph, {tensor.name: tensor for tensor in model.graph.initializer})
        with ALL_ENGINES["onnxruntime"](replace(one, graph=model.SerializeToString())) as answer:
            yield answer

    return conform(engine, (*PROBES[3:6], GUARDED), examples=400, seed=3)


def scaled(name: str, by: float) -> Callable[[onnx.GraphProto, dict[str, onnx.TensorProto]], object]:
    def change(_: onnx.GraphProto, tensors: dict[str, onnx.TensorProto]) -> None:
        if name not in tensors:
            return
        values = numpy_helper.to_array(tensors[name])
        tensors[name].CopyFrom(numpy_helper.from_array((values * by).astype(values.dtype), name))

    return change


def replaced(operator: str, output: str, by: str) -> Callable[[onnx.GraphProto, dict[str, onnx.TensorProto]], object]:
    def change(graph: onnx.GraphProto, _: dict[str, onnx.TensorProto]) -> None:
        (node,) = (node for node in graph.node if output in node.output and node.op_type == operator)
        node.op_type = by

    return change


def unchecked(graph: onnx.GraphProto, _: dict[str, onnx.TensorProto]) -> None:
    """Every image is valid."""
    for node in graph.node:
        node.input[:] = ["always" if name == "valid_row" else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array([[True]]), "always"))


def without_label_check(graph: onnx.GraphProto, _: dict[str, onnx.TensorProto]) -> None:
    """The radii of an invalid image are 0, but it has a class."""
    (node,) = (node for node in graph.node if "label" in node.output)
    node.op_type, node.input[:] = "Identity", ["first"]


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (scaled("nominal_weights", 1 + 1e-4), "nominal_radius"),
        (scaled("score_thresholds", 1 - 1e-4), "certified_radius"),
        (scaled("served_radii", 1 + 1e-6), "certified_radius"),
        (scaled("from_erf", 1.01), "l_bound"),
        (scaled("nominal_weights", 0.99), "nominal_radius of use"),
        (scaled("score_thresholds", 1.01), "certified_radius of use"),
        (scaled("guard_threshold", 1 + 1e-3), "guard"),
        (scaled("guard_threshold", 0.5), "guard of use"),
        (scaled("reason_of_none", 0), "reason"),
        (unchecked, "invalid input"),
        (without_label_check, "invalid input"),
        (replaced("And", "valid", "Or"), "invalid input"),
        (replaced("ReduceMin", "lowest", "ReduceMax"), "invalid input"),
        (replaced("Softmax", "softmax", "LogSoftmax"), "probabilities"),
    ],
)
def test_an_engine_that_means_something_else_is_found(change: Any, promise: str) -> None:
    findings = tampered(change)
    assert not findings.passed
    assert findings.promises[promise].failures > 0
    assert findings.promises[promise].first is not None


def without_margins(one: Probe) -> Probe:
    model, margins = onnx.load_from_string(one.graph), Margins(roundoff=0, relative=0, absolute=0)
    bare = certificate_graph(num_classes=one.classes, sigma=one.sigma, margins=margins).initializer
    of_map = map_tensors(one.radius_map, num_classes=one.classes, margins=margins)
    constants = {tensor.name: tensor for tensor in (*bare, *of_map)}
    for tensor in model.graph.initializer:
        tensor.CopyFrom(constants.get(tensor.name, tensor))
    return replace(one, graph=model.SerializeToString())


def test_a_certificate_without_margins_is_found() -> None:
    """What float32 rounds up is seen: no tolerance of the suite hides it."""
    bare = [without_margins(one) for one in PROBES[3:5]]
    findings = conform(ALL_ENGINES["onnxruntime"], bare, examples=400, seed=3)
    for promise in ("nominal_radius", "certified_radius"):
        assert findings.promises[promise].failures > 0


def test_an_engine_with_other_outputs_is_found() -> None:
    def lossy(images: Any) -> Any:
        with ALL_ENGINES["onnxruntime"](PROBES[3]) as answer:
            return {name: value for name, value in answer(images).items() if name != "l_bound"}

    @contextmanager
    def engine(_: Probe) -> Iterator[Runner]:
        yield lossy

    findings = conform(engine, PROBES[3:4], examples=10, seed=0)
    assert not findings.passed
    assert "outputs: expected" in str(findings.ended_by)


def test_the_order_of_a_batch_does_not_matter() -> None:
    one = probe(FP32, classes=10, sigma=0.25, radius_map=PROBES[3].radius_map)

    @contextmanager
    def forgetful(_: Probe) -> Iterator[Runner]:
        """Answers the first image of a batch to all of them."""
        with ALL_ENGINES["onnxruntime"](one) as answer:
            yield lambda images: {name: value[[0] * len(value)] for name, value in answer(images).items()}

    findings = Findings()
    with forgetful(one) as answer:
        examine(findings, answer, one, examples=50, rng=np.random.default_rng(0))
    assert findings.promises["alone as in a batch"].failures > 0


def test_the_command_counts_and_names_what_is_absent(tmp_path: Path) -> None:
    out = tmp_path / "conformance.json"
    arguments = ["conformance", "--examples", "20", "--out", str(out)]
    for engine in ("onnxruntime", "tensorrt", "onnxruntime CUDA"):
        arguments += ["--engine", engine]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    results = json.loads(out.read_text())
    assert {"command", "machine", "versions", "date", "seed", "examples"} <= set(results)
    found = results["engines"]["onnxruntime"]
    assert found["passed"]
    assert (found["failures"], found["ended_by"]) == (0, None)
    for engine, reason in results["absent"].items():
        assert f"{engine} could not be run here. {reason}"[:60] in shown.output
    wrong = CliRunner().invoke(app, ["conformance", "--engine", "abacus"])
    assert "engine: expected one of onnxruntime, " in str(wrong.exception)


@contextmanager
def unchecking(one: Probe) -> Iterator[Runner]:
    """ONNX Runtime with a graph that takes every image for valid."""
    model = onnx.load_from_string(one.graph)
    unchecked(model.graph, {})
    with ALL_ENGINES["onnxruntime"](replace(one, graph=model.SerializeToString())) as runner:
        yield runner


@contextmanager
def absent(_: Probe) -> Iterator[Runner]:
    raise EngineMissingError("it has no wheels")
    yield


def test_a_broken_promise_is_shown_and_what_is_absent() -> None:
    findings, why = conform_all({"unchecked": unchecking, "abacus": absent}, examples=20, seed=0)
    assert why == {"abacus": "it has no wheels"}
    assert not findings["unchecked"].passed
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(conformance_table(findings, why))
    shown = console.export_text()
    assert "unchecked: invalid input: " in shown
    assert "abacus could not be run here. it has no wheels" in shown


def test_an_engine_that_was_added_is_examined_and_a_broken_promise_ends_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_ENGINES, "unchecked", unchecking)
    arguments = ["conformance", "--examples", "20", "--engine", "unchecked"]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == BROKEN
    assert "unchecked: invalid input: " in shown.output


def test_an_absent_engine_says_what_it_needs() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime has CUDA here")
    with pytest.raises(EngineMissingError, match=r"CUDAExecutionProvider: expected .* NVIDIA GPU"):
        conform(ALL_ENGINES["onnxruntime CUDA"], PROBES[:1], examples=1, seed=0)


def refuse(*_: Any, **__: Any) -> Any:
    raise GraphError("graph: refused")


@pytest.mark.parametrize(
    "engine", [on_accelerator("cuda", opener=refuse), with_plan(require=lambda: None, build=refuse)]
)
def test_an_engine_that_is_there_and_refuses_a_graph_has_failed(engine: Engine) -> None:
    findings = conform(engine, PROBES[:1], examples=1, seed=0)
    assert not findings.passed
    assert findings.ended_by == "graph: refused"


def test_nothing_that_could_be_run_is_no_success() -> None:
    with pytest.raises(EngineMissingError, match=r"^abacus could not be run here\. it has no wheels$"):
        conform_all({"abacus": absent}, examples=1, seed=0)
