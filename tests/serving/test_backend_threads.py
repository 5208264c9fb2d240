"""The process of a model computes what its graph computes elsewhere, and leaves the cores to others in between."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc
from onnx import parser
from tiny_model import SIGMA, random_images, write_tiny_card, write_tiny_model

from heatserve import FREE_PORTS, TritonServer
from heatserve.export.card import BASE_NAME, GRAPH_NAME
from heatserve.export.graph.build import certified_graph
from heatserve.export.runtime.session import open_session, run
from heatserve.serving.triton.processes import triton_and_instances

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only"),
]

# 64 images take 30 million multiplications, which ONNX Runtime shares among threads.
_WIDE = """
<ir_version: 9, opset_import: ["" : 18]>
wide (float[N,1,8,8] image) => (float[N,10] logits)
<int64[2] into = {64, 512}, int64[2] square = {512, 512}, int64[2] out = {512, 64}> {
    flat = Flatten<axis = 1>(image)
    narrow_to_wide = ConstantOfShape<value = float[1] {0.001}>(into)
    wide_to_wide = ConstantOfShape<value = float[1] {0.001}>(square)
    wide_to_narrow = ConstantOfShape<value = float[1] {0.001}>(out)
    wider = MatMul(flat, narrow_to_wide)
    widest = MatMul(wider, wide_to_wide)
    sums = MatMul(widest, wide_to_narrow)
    both = Add(flat, sums)
    logits = MatMul(both, weights)
}
"""
_REQUESTS = 20
_PAUSE_SECONDS = 0.05  # ONNX Runtime's own threads wait actively for about as long, after each request
_MOST_SECONDS_OF_A_CORE = 0.15


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a version of `wide`."""
    version_dir = write_tiny_model(tmp_path_factory.mktemp("repository"), "wide", calibrated=False)
    logits = parser.parse_model(_WIDE)
    logits.graph.initializer.extend(onnx.load(version_dir / BASE_NAME).graph.initializer)
    onnx.save(logits, version_dir / BASE_NAME)
    onnx.save(certified_graph(logits, sigma=SIGMA), version_dir / GRAPH_NAME)
    write_tiny_card(version_dir, calibration=None)
    return version_dir


@pytest.fixture(scope="module")
def server(wide: Path) -> Iterator[TritonServer]:
    with TritonServer(wide.parents[1], endpoints=FREE_PORTS) as server:
        yield server


@pytest.fixture
def caller(server: TritonServer) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    with tritonclient.grpc.InferenceServerClient(server.endpoints.grpc_url.split("://")[1]) as caller:
        yield caller


def image_input(count: int) -> tritonclient.grpc.InferInput:
    images = random_images(count)
    tensor = tritonclient.grpc.InferInput("image", images.shape, "FP32")
    tensor.set_data_from_numpy(images)
    return tensor


def test_the_server_answers_what_the_graph_answers_here_to_the_bit(
    wide: Path, caller: tritonclient.grpc.InferenceServerClient
) -> None:
    session = open_session(wide / GRAPH_NAME)
    for count in (1, 3, 64):
        answer = caller.infer("wide", [image_input(count)])
        for name, expected in run(session, random_images(count)).items():
            found = answer.as_numpy(name)
            assert found is not None
            np.testing.assert_array_equal(found.reshape(expected.shape), expected, err_msg=name)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has one thread")
def test_threads_do_not_wait_actively_between_requests(
    server: TritonServer, caller: tritonclient.grpc.InferenceServerClient
) -> None:
    _, process = triton_and_instances(server._process.pid)
    tensor = image_input(64)
    caller.infer("wide", [tensor])
    before = process.look().seconds
    for _ in range(_REQUESTS):
        caller.infer("wide", [tensor])
        time.sleep(_PAUSE_SECONDS)
    assert process.look().seconds - before < _MOST_SECONDS_OF_A_CORE
