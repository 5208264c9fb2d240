"""The conformance suite on deterministic certificates: float64 passes, and what is off by a trifle does not."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from heatserve.export.runtime.session import GraphError, Runner
from heatserve.serving.conformance.conform import conform
from heatserve.serving.conformance.engines import ALL_ENGINES, on_accelerator, with_plan
from heatserve.serving.conformance.findings import Findings
from heatserve.serving.conformance.probe import Probe
from heatserve.serving.conformance.proven import hard_images, proven_logits, proven_probes
from heatserve.serving.conformance.report import conformance_table

PROBES = proven_probes(seed=0)
ENCODED, NETWORK = PROBES[1], PROBES[4]


@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime without optimisations", "onnx reference"])
def test_an_engine_in_float64_passes(engine: str) -> None:
    findings = conform(ALL_ENGINES[engine], PROBES, examples=150, seed=1)
    assert findings.passed, findings
    for promise in (
        "invalid input",
        "proven certified_radius",
        "proven certified_radius of use",
        "alone as in a batch",
    ):
        assert findings.promises[promise].cases > 0


@pytest.mark.slow
def test_triton_means_the_same() -> None:
    findings = conform(ALL_ENGINES["triton"], (ENCODED, NETWORK), examples=100, seed=2)
    assert findings.passed, findings
    assert findings.promises["invalid input"].cases > 10


@pytest.mark.parametrize("one", [ENCODED, NETWORK])
def test_cases_lie_at_ties_and_at_the_slack(one: Probe) -> None:
    assert one.bound is not None
    images = hard_images(one, count=400, rng=np.random.default_rng(0))
    first, second = -np.sort(-proven_logits(one, images), axis=1)[:, :2].T
    radius, slack = (first - second) / np.sqrt(2), one.bound.slack
    near = 1e-3 * slack if one is ENCODED else 1e-7
    assert (radius < near).sum() > 20
    for side in (-1, 1):
        off = side * (radius - slack)
        assert ((off > 0) & (off < near)).sum() > 10


def changed(ending: str, value: Callable[[Any], Any]) -> Findings:
    """What is found where ONNX Runtime answers with other constants."""

    @contextmanager
    def engine(one: Probe) -> Iterator[Runner]:
        model = onnx.load_from_string(one.graph)
        for tensor in model.graph.initializer:
            if tensor.name.endswith(ending):
                array = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(value(array), array.dtype), tensor.name))
        with ALL_ENGINES["onnxruntime"](replace(one, graph=model.SerializeToString())) as answer:
            yield answer

    return conform(engine, (ENCODED, NETWORK), examples=200, seed=3)


@pytest.mark.parametrize(
    ("ending", "value", "promise"),
    [
        ("slack", lambda slack: slack * (1 - 1e-4), "proven certified_radius"),
        ("slack", lambda slack: slack * (1 + 1e-4), "proven certified_radius of use"),
        ("per_margin", lambda number: number * (1 + 1e-6), "proven nominal_radius"),
        ("per_margin", lambda number: number * (1 - 1e-5), "proven nominal_radius of use"),
        ("rounds", lambda number: number * (1 + 1e-6), "proven nominal_radius"),
        ("reason_proven", lambda _: 1, "proven reason"),
        (".step", lambda step: np.nextafter(np.float32(step), np.float32(9)), "proven nominal_radius"),
        (".bias", lambda bias: bias.astype(np.float32) + np.float32(1e-9), "proven nominal_radius"),
    ],
)
def test_what_is_off_by_a_trifle_is_found(ending: str, value: Callable[[Any], Any], promise: str) -> None:
    """The next float32 after a step, which an engine that keeps factors in float32 might take, is one of these."""
    findings = changed(ending, value)
    assert not findings.passed
    assert findings.promises[promise].failures > 0


def refuse(*_: Any, **__: Any) -> Any:
    raise GraphError("graph: refused")


@pytest.mark.parametrize(
    "engine", [on_accelerator("tensorrt", opener=refuse), with_plan(require=lambda: None, build=refuse)]
)
def test_tensorrt_has_no_float64_and_that_is_said_and_is_no_failure(engine: Any) -> None:
    findings = conform(engine, PROBES, examples=10, seed=0)
    assert findings.passed
    assert findings.cases == 0
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(conformance_table({"tensorrt": findings}, {}))
    assert "tensorrt: some probes were skipped: TensorRT has no float64" in console.export_text()
