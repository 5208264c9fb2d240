"""What one caller can do to the others whose requests meet its own in a batch: nothing."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import parser
from tiny_model import SIGMA, delay_batches, random_images, take_uint8, write_tiny_card, write_tiny_model
from tritonclient.grpc import service_pb2, service_pb2_grpc

from heatserve import FREE_PORTS, TritonServer
from heatserve.export.card import BASE_NAME, GRAPH_NAME
from heatserve.export.graph.build import certified_graph

pytestmark = pytest.mark.slow

HONEST, POISONERS, ROUNDS = 6, 3, 15
ONE = random_images(1).tobytes()
INSIDE_OF_THE_SERVER = re.compile(r"/|\\|\.py|\bline \d|Traceback|At:|heatserve-|shared memory|ONNXRuntime|_0_0")
# ONNX Runtime fails on it where a pixel is 1: that is an index into a table of one element.
FRAGILE = """
<ir_version: 9, opset_import: ["" : 18]>
fragile (float[N,1,8,8] image) => (float[N,10] logits) <float[1] table = {1}> {
    flat = Flatten<axis = 1>(image)
    sums = MatMul(flat, weights)
    brightest = ReduceMax<keepdims = 0>(image)
    index = Cast<to = 7>(brightest)
    scale = Gather(table, index)
    logits = Mul(sums, scale)
}
"""


def infer_request(
    model: str, shape: Sequence[int], data: bytes, *, outputs: Sequence[str] = ("probabilities",), **parameters: Any
) -> service_pb2.ModelInferRequest:
    """A request of any shape with any bytes: no client checks it."""
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[data])
    request.inputs.add(name="image", datatype="FP32" if model != "pictures" else "UINT8", shape=shape)
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def poison(model: str) -> list[service_pb2.ModelInferRequest]:
    """Requests that no model takes, most of which Triton's core lets into a batch with others all the same."""
    if model == "pictures":
        # Their bytes are 400, as those of the others; or the product of the sizes modulo 2⁶⁴, which is 400 or 0.
        sizes = [(0, 20, 20), (2**32, 20, 20), (1, 0, 0), (1, 0, 5), (1, 1, 4096), (1, 2**32, 2**32)]
        sizes += [(1, 2**62 + 100, 4), (1, -20, -20), (1, 2**40, 0), (0, 2**32, 2**32)]
        return [infer_request(model, (*size, 1), bytes(_bytes_of(size))) for size in sizes]
    outputs = ("label", "label", "probabilities")
    return [
        *(infer_request(model, (count, 1, 8, 8), ONE) for count in (0, 2**32, 2**62, -(2**32))),
        infer_request(model, (65, 1, 8, 8), random_images(65).tobytes()),
        infer_request(model, (2000, 1, 8, 8), random_images(2000).tobytes()),
        infer_request(model, (1, 1, 8, 8), np.full(64, np.nan, np.float32).tobytes()),
        infer_request(model, (0, 1, 8, 8), ONE, outputs=outputs, sequence_id=7, sequence_start=True, timeout=1),
        infer_request(model, (0, 1, 8, 8), ONE, outputs=(), nonsense=float("nan"), text="\0"),
        infer_request(model, (2, 1, 8, 8), ONE),
        infer_request(model, (1, 8, 8), ONE),
        infer_request(model, (1, 1, 8, 8), ONE, outputs=("radius",)),
    ]


def _bytes_of(size: Sequence[int]) -> int:
    """As Triton's core counts them: the number of images modulo 2³², none taken for one; the product modulo 2⁶⁴."""
    return (size[0] % 2**32 or 1) * size[1] * size[2] % 2**64


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """A Triton with three models, which collect requests for a twentieth of a second."""
    repository = tmp_path_factory.mktemp("poisoned")
    for name in ("patient", "pictures", "fragile"):
        version_dir = write_tiny_model(repository, name, calibrated=False)
        if name == "pictures":
            take_uint8(version_dir, resize=12)
        if name == "fragile":
            logits = parser.parse_model(FRAGILE)
            logits.graph.initializer.extend(onnx.load(version_dir / BASE_NAME).graph.initializer)
            onnx.save(logits, version_dir / BASE_NAME)
            onnx.save(certified_graph(logits, sigma=SIGMA), version_dir / GRAPH_NAME)
            write_tiny_card(version_dir, calibration=None)
        delay_batches(version_dir, microseconds=50_000)
    with (
        TritonServer(repository, endpoints=FREE_PORTS) as server,
        grpc.insecure_channel(server.endpoints.grpc_url.removeprefix("grpc://")) as channel,
    ):
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def probabilities(answer: service_pb2.ModelInferResponse) -> NDArray[np.float32]:
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)


def refusal(ask: Callable[..., Any], request: service_pb2.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ask(request, timeout=30)
    return caught.value.code(), caught.value.details()


def honest_request(model: str, seed: int) -> service_pb2.ModelInferRequest:
    if model == "pictures":
        pixels = np.random.default_rng(seed).integers(0, 256, (2, 20, 20, 1), dtype=np.uint8)
        return infer_request(model, pixels.shape, pixels.tobytes())
    images = random_images(2, seed=seed)
    return infer_request(model, images.shape, images.tobytes())


@pytest.mark.parametrize("model", ["patient", "pictures"])
def test_honest_callers_beside_poisonous_ones_lose_nothing(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, model: str
) -> None:
    expected = [probabilities(stub.ModelInfer(honest_request(model, seed), timeout=30)) for seed in range(HONEST)]
    done = threading.Event()

    def ask(seed: int) -> None:
        for _ in range(ROUNDS):
            answer = stub.ModelInfer(honest_request(model, seed), timeout=30)
            np.testing.assert_allclose(probabilities(answer), expected[seed], rtol=1e-5)

    def attack(first: int) -> list[tuple[grpc.StatusCode, str]]:
        requests = poison(model)
        refusals = []
        for request in cycle(requests[first:] + requests[:first]):
            refusals.append(refusal(stub.ModelInfer, request))
            if done.is_set() and len(refusals) >= len(requests):
                return refusals
        raise AssertionError("unreachable")

    with ThreadPoolExecutor(HONEST + POISONERS) as pool:
        attacks = [pool.submit(attack, 3 * number) for number in range(POISONERS)]
        honest = [pool.submit(ask, seed) for seed in range(HONEST)]
        try:
            for caller in honest:
                caller.result()
        finally:
            done.set()
        refusals = [refusal for attack in attacks for refusal in attack.result()]
    assert {status for status, _ in refusals} == {grpc.StatusCode.INVALID_ARGUMENT}
    for message in {message for _, message in refusals}:
        assert re.search(r"expected|batch-size must be <= 64 for", message, re.IGNORECASE)
        assert not INSIDE_OF_THE_SERVER.search(message), message


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (
            "patient",
            (2**62, 1, 8, 8),
            "image: expected [N,1,8,8] with N = 1 to 64 images, found N = 0 (N is read modulo 2³²)",
        ),
        ("pictures", (0, 20, 20, 1), "image: expected [N,any,any,1] with N = 1 to 64 images, found N = 0"),
        ("pictures", (1, 2**32, 2**32, 1), "image: expected [N,any,any,1], found sizes that are negative or too large"),
        ("pictures", (1, 1, 11, 1), "longer side is at most 10 times the shorter one, found 1×11 pixels"),
        ("pictures", (1, 0, 5, 1), "longer side is at most 10 times the shorter one, found 0×5 pixels"),
    ],
)
def test_the_refusal_says_what_was_expected_and_what_came(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, model: str, shape: tuple[int, ...], message: str
) -> None:
    data = ONE if model == "patient" else bytes(_bytes_of(shape))
    assert message in refusal(stub.ModelInfer, infer_request(model, shape, data))[1]


def test_many_requests_of_no_image_do_not_fill_a_batch(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    """Triton's core counts one image for each, its python backend the first axis that is left."""
    empty = [stub.ModelInfer.future(infer_request("pictures", (0, 20, 20, 1), bytes(400))) for _ in range(40)]
    honest = stub.ModelInfer(honest_request("pictures", 0), timeout=30)
    assert probabilities(honest).shape == (2, 10)
    assert {call.code() for call in empty} == {grpc.StatusCode.INVALID_ARGUMENT}


def test_what_the_graph_fails_on_fails_alone(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> None:
    bright = random_images(1)
    bright[0, 0, 4, 4] = 1
    expected = probabilities(stub.ModelInfer(honest_request("fragile", 0), timeout=30))
    calls = [
        stub.ModelInfer.future(request, timeout=30)
        for request in (
            honest_request("fragile", 0),
            infer_request("fragile", bright.shape, bright.tobytes()),
            honest_request("fragile", 0),
        )
    ]
    for call in (calls[0], calls[2]):
        np.testing.assert_allclose(probabilities(call.result()), expected, rtol=1e-5)
    assert calls[1].code() == grpc.StatusCode.INTERNAL
    assert "expected an answer of the model, found that it fails on this request" in calls[1].details()
    assert not INSIDE_OF_THE_SERVER.search(calls[1].details())
    assert largest_batch(stub, 5) >= 5, "the requests did not meet in one batch"


def largest_batch(stub: service_pb2_grpc.GRPCInferenceServiceStub, expected: int) -> int:
    """The most images that Triton has run `fragile` on at once: a run is counted some time after its answer."""
    deadline = time.monotonic() + 10
    found = 0
    while found < expected and time.monotonic() < deadline:
        statistics = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="fragile"))
        found = max(int(batch.batch_size) for batch in statistics.model_stats[0].batch_stats)
    return found
