"""Clients of others work unchanged: what tritonclient's examples call, curl, and the clients of kserve."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from fronts import RunningFront, front_before
from nginx import TOKEN, Nginx, nginx_before
from programs import program
from relays import Certificates, make_certificates
from tiny_tiers import RADIUS, grid_images
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from heatserve import Client, Prediction, TritonServer, UnknownModelError
from heatserve.export.contract import OUTPUT_NAMES
from heatserve.serving.front.state import state_of_triton

IMAGES = grid_images(3)
QUERY = {"test_1": 1, "test_2": 2}
AUTHORIZATION = f"Bearer {TOKEN}"


@pytest.fixture(scope="module")
def front(tiers: TritonServer) -> Iterator[RunningFront]:
    with front_before(state_of_triton(tiers)) as running:
        yield running


@pytest.fixture(scope="module")
def http(front: RunningFront) -> Iterator[Any]:
    with tritonclient.http.InferenceServerClient(front.url.removeprefix("http://"), concurrency=4) as client:
        yield client


@pytest.fixture(scope="module")
def grpc_client(tiers: TritonServer) -> Iterator[Any]:
    with tritonclient.grpc.InferenceServerClient(tiers.endpoints.grpc_url.removeprefix("grpc://")) as client:
        yield client


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def nginx(tiers: TritonServer, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx_before(tiers.endpoints.grpc, certificates, tmp_path_factory.mktemp("nginx")) as running:
        yield running


@pytest.fixture(scope="module")
def expected(tiers: TritonServer) -> list[Prediction]:
    """What our own client gets."""
    with Client(tiers.endpoints.grpc_url, model="tiny") as client:
        return client.predict(IMAGES)


def check(result: Any, expected: list[Prediction]) -> None:
    """Labels, probabilities and radii are those of our own client."""
    labels = np.asarray(result.as_numpy("label")).reshape(-1)
    assert labels.tolist() == [one.label for one in expected]
    np.testing.assert_allclose(
        result.as_numpy("probabilities"), [one.probabilities for one in expected], rtol=1e-5, atol=1e-7
    )
    radii = np.asarray(result.as_numpy("certified_radius")).reshape(-1)
    np.testing.assert_allclose(radii, [one.certified_radius for one in expected], rtol=1e-6)


def some_headers() -> dict[str, str]:
    """As in the examples; the client for HTTP adds its own to them."""
    return {"test": "1", "dummy": "2"}


def image_input(package: Any, **options: Any) -> Any:
    tensor = package.InferInput("image", list(IMAGES.shape), "FP32")
    tensor.set_data_from_numpy(IMAGES, **options)
    return tensor


# tritonclient over HTTP


def test_health_and_metadata_over_http(http: Any) -> None:
    """As simple_http_health_metadata.py."""
    assert http.is_server_live(query_params=QUERY)
    assert http.is_server_ready()
    assert http.is_model_ready("tiny")
    assert not http.is_model_ready("wrong_model_name")
    assert http.get_server_metadata()["name"] == "triton"
    metadata = http.get_model_metadata("tiny", query_params=QUERY)
    assert metadata["name"] == "tiny"
    assert [(tensor["name"], tensor["datatype"]) for tensor in metadata["inputs"]] == [("image", "FP32")]
    assert {tensor["name"] for tensor in metadata["outputs"]} == set(OUTPUT_NAMES)
    assert http.get_model_config("tiny")["max_batch_size"] == 64
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        http.get_model_metadata("wrong_model_name")


@pytest.mark.parametrize("sent", [True, False], ids=["bytes sent", "numbers sent"])
@pytest.mark.parametrize("asked", [True, False, None], ids=["bytes asked", "numbers asked", "all asked"])
def test_infer_over_http(http: Any, expected: list[Prediction], sent: bool, asked: bool | None) -> None:
    """As simple_http_infer_client.py."""
    outputs = None
    if asked is not None:
        outputs = [tritonclient.http.InferRequestedOutput(name, binary_data=asked) for name in OUTPUT_NAMES]
        outputs[0] = tritonclient.http.InferRequestedOutput(OUTPUT_NAMES[0], binary_data=True)
    result = http.infer(
        "tiny",
        [image_input(tritonclient.http, binary_data=sent)],
        outputs=outputs,
        request_id="17",
        query_params=QUERY,
        headers=some_headers(),
        response_compression_algorithm="gzip",
    )
    check(result, expected)
    assert result.get_response()["id"] == "17"


def test_wrong_names_and_statistics_over_http(http: Any, front: RunningFront) -> None:
    """As the rest of simple_http_infer_client.py."""
    before = http.get_inference_statistics("tiny", headers=some_headers())["model_stats"]
    assert len(before) == 1
    http.infer("tiny", [image_input(tritonclient.http)])
    after = http.get_inference_statistics("tiny")["model_stats"]
    assert after[0]["inference_count"] >= before[0]["inference_count"] + len(IMAGES)
    with pytest.raises(InferenceServerException) as caught:
        http.infer("wrong_model_name", [image_input(tritonclient.http)])
    assert caught.value.message().startswith("Request for unknown model")
    with Client(front.url, model="nobody") as client, pytest.raises(UnknownModelError):
        client.predict(IMAGES)


def test_many_at_once_over_http(http: Any, expected: list[Prediction]) -> None:
    """As simple_http_async_infer_client.py."""
    asked = [http.async_infer("tiny", [image_input(tritonclient.http)]) for _ in range(8)]
    for request in asked:
        check(request.get_result(), expected)


def test_asyncio_over_http(front: RunningFront, expected: list[Prediction]) -> None:
    """As simple_http_aio_infer_client.py."""

    async def ask() -> Any:
        async with tritonclient.http.aio.InferenceServerClient(front.url.removeprefix("http://")) as client:
            assert await client.is_server_ready()
            return await client.infer(
                "tiny", [image_input(tritonclient.http)], query_params=QUERY, headers=some_headers()
            )

    check(asyncio.run(ask()), expected)


def test_classes_over_http(http: Any, expected: list[Prediction]) -> None:
    """As image_client.py: the two likeliest classes, as VALUE:INDEX:NAME."""
    wanted = [tritonclient.http.InferRequestedOutput("probabilities", class_count=2)]
    ranked = http.infer("tiny", [image_input(tritonclient.http)], outputs=wanted).as_numpy("probabilities")
    for row, prediction in zip(ranked, expected, strict=True):
        assert row[0].decode().split(":")[1:] == [str(prediction.label), prediction.class_name]


def test_a_tier_over_http(http: Any) -> None:
    result = http.infer(
        "tiny_confirm", [image_input(tritonclient.http)], parameters={"radius": RADIUS, "n": 100, "alpha": 1e-3}
    )
    assert result.as_numpy("outcome").shape == (3, 1)


def test_what_is_closed_over_http(http: Any) -> None:
    """As simple_http_shm_client.py and simple_http_model_control.py, and a compressed request."""
    for call in (
        partial(http.register_system_shared_memory, "region", "/region", 64),
        http.get_system_shared_memory_status,
        partial(http.load_model, "tiny"),
        partial(http.unload_model, "tiny"),
        http.get_model_repository_index,
        partial(http.infer, "tiny", [image_input(tritonclient.http)], request_compression_algorithm="gzip"),
    ):
        with pytest.raises(InferenceServerException):
            call()
    assert http.is_model_ready("tiny")


# tritonclient over gRPC


def test_health_and_metadata_over_grpc(grpc_client: Any) -> None:
    """As simple_grpc_health_metadata.py."""
    assert grpc_client.is_server_live(headers=some_headers())
    assert grpc_client.is_server_ready()
    assert grpc_client.is_model_ready("tiny")
    assert grpc_client.get_server_metadata().name == "triton"
    assert grpc_client.get_model_metadata("tiny", headers=some_headers()).name == "tiny"
    assert grpc_client.get_model_config("tiny").config.name == "tiny"
    assert len(grpc_client.get_inference_statistics("tiny").model_stats) == 1
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        grpc_client.get_model_metadata("wrong_model_name")


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_infer_over_grpc(grpc_client: Any, expected: list[Prediction], compression: str | None) -> None:
    """As simple_grpc_infer_client.py, and with the same objects again as reuse_infer_objects_client.py."""
    inputs = [image_input(tritonclient.grpc)]
    outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in OUTPUT_NAMES]
    for _ in range(2):
        result = grpc_client.infer(
            "tiny",
            inputs,
            outputs=outputs,
            headers=some_headers(),
            client_timeout=60,
            compression_algorithm=compression,
        )
        check(result, expected)


def test_with_a_callback_over_grpc(grpc_client: Any, expected: list[Prediction]) -> None:
    """As simple_grpc_async_infer_client.py."""
    answers = queue.Queue[tuple[Any, Any]]()
    grpc_client.async_infer(
        "tiny", [image_input(tritonclient.grpc)], lambda result, error: answers.put((result, error)), client_timeout=60
    )
    result, error = answers.get(timeout=60)
    assert error is None
    check(result, expected)


@pytest.mark.parametrize("through", ["directly", "nginx"])
def test_a_stream_over_grpc(tiers: TritonServer, nginx: Nginx, certificates: Certificates, through: str) -> None:
    """As simple_grpc_custom_repeat.py: its stream stays open while the answers come."""
    answers = queue.Queue[tuple[Any, Any]]()
    options: dict[str, Any] = {}
    address, headers = tiers.endpoints.grpc_url.removeprefix("grpc://"), None
    if through == "nginx":
        options = {"ssl": True, "root_certificates": str(certificates.ca)}
        address, headers = f"localhost:{nginx.port}", {"authorization": AUTHORIZATION}
    tensor = tritonclient.grpc.InferInput("image", [1, *IMAGES.shape[1:]], "FP32")
    tensor.set_data_from_numpy(IMAGES[:1])
    with tritonclient.grpc.InferenceServerClient(address, **options) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
        client.async_stream_infer("tiny_certify_stream", [tensor], parameters={"n": 100})
        result, error = answers.get(timeout=60)
        client.stop_stream(cancel_requests=True)
    assert error is None
    assert result.as_numpy("votes").item() > 0


def test_asyncio_over_grpc(tiers: TritonServer, expected: list[Prediction]) -> None:
    """As simple_grpc_aio_infer_client.py."""

    async def ask() -> Any:
        address = tiers.endpoints.grpc_url.removeprefix("grpc://")
        async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            return await client.infer("tiny", [image_input(tritonclient.grpc)], headers=some_headers())

    check(asyncio.run(ask()), expected)


def test_keep_alive_and_arguments_of_the_channel(tiers: TritonServer, expected: list[Prediction]) -> None:
    """As simple_grpc_keepalive_client.py and simple_grpc_custom_args_client.py."""
    address = tiers.endpoints.grpc_url.removeprefix("grpc://")
    keep_alive = tritonclient.grpc.KeepAliveOptions(
        keepalive_time_ms=10_000,
        keepalive_timeout_ms=5_000,
        keepalive_permit_without_calls=True,
        http2_max_pings_without_data=0,
    )
    for options in ({"keepalive_options": keep_alive}, {"channel_args": [("grpc.primary_user_agent", "custom")]}):
        with tritonclient.grpc.InferenceServerClient(address, **options) as client:
            check(client.infer("tiny", [image_input(tritonclient.grpc)]), expected)


def test_generated_code_over_grpc(tiers: TritonServer, expected: list[Prediction]) -> None:
    """As grpc_client.py and grpc_explicit_int_content_client.py: numbers in the message, not bytes beside it."""
    with grpc.insecure_channel(tiers.endpoints.grpc_url.removeprefix("grpc://")) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        tensor = service_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=IMAGES.shape)
        tensor.contents.fp32_contents[:] = IMAGES.reshape(-1).tolist()
        answer = stub.ModelInfer(service_pb2.ModelInferRequest(model_name="tiny", inputs=[tensor]), timeout=60)
    check(tritonclient.grpc.InferResult(answer), expected)


def test_tritonclient_through_nginx(nginx: Nginx, certificates: Certificates, expected: list[Prediction]) -> None:
    """With the options --ssl and --root-certificates of simple_grpc_infer_client.py, and a token."""
    with tritonclient.grpc.InferenceServerClient(
        f"localhost:{nginx.port}", ssl=True, root_certificates=str(certificates.ca)
    ) as client:
        assert client.is_server_ready()
        headers = {"authorization": AUTHORIZATION}
        check(client.infer("tiny", [image_input(tritonclient.grpc)], headers=headers), expected)
        with pytest.raises(InferenceServerException, match="closed here"):
            client.get_model_repository_index(headers=headers)


# kserve


@pytest.fixture(scope="module")
def kserve_answers(
    tiers: TritonServer, front: RunningFront, nginx: Nginx, certificates: Certificates
) -> dict[str, dict[str, Any]]:
    if find_spec("kserve") is None:
        pytest.skip("kserve is not installed")
    options = {
        "model": "tiny",
        "images": IMAGES.tolist(),
        "rest": front.url,
        "directly": tiers.endpoints.grpc_url.removeprefix("grpc://"),
        "nginx": f"localhost:{nginx.port}",
        "tls": {"use_ssl": True, "root_certificates": str(certificates.ca)},
        "headers": [["authorization", AUTHORIZATION]],
    }
    command = [sys.executable, str(Path(__file__).parents[1] / "kserve_client.py"), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", ["rest", "directly", "nginx"])
def test_clients_of_kserve(kserve_answers: dict[str, dict[str, Any]], expected: list[Prediction], way: str) -> None:
    """`InferenceRESTClient` and `InferenceGRPCClient`."""
    found = kserve_answers[way]
    assert (found["live"], found["ready"], found["model ready"]) == (True, True, True)
    for outputs in (found["binary"], found["numbers"]):
        assert set(outputs) == set(OUTPUT_NAMES)
        assert np.reshape(outputs["label"], -1).tolist() == [one.label for one in expected]
        probabilities = [one.probabilities for one in expected]
        np.testing.assert_allclose(outputs["probabilities"], probabilities, rtol=1e-5, atol=1e-7)
    if way == "rest":
        assert found["nobody ready"] is False
        assert "400" in found["refusal"]
        assert "image" in found["refusal"]


# curl


def curl(*arguments: str, body: bytes | None = None) -> tuple[str, bytes]:
    """Status and body."""
    command = [program("curl"), "-sS", "--max-time", "60", "-w", "\n%{http_code}", *arguments]
    done = subprocess.run(command, input=body, capture_output=True, check=True)
    content, _, status = done.stdout.rpartition(b"\n")
    return status.decode(), content


def test_curl_asks_for_health_and_metadata(front: RunningFront) -> None:
    assert curl(f"{front.url}/v2/health/live")[0] == "200"
    assert curl(f"{front.url}/v2/health/ready")[0] == "200"
    assert curl(f"{front.url}/v2/models/tiny/ready")[0] == "200"
    assert json.loads(curl(f"{front.url}/v2/models/tiny/versions/1")[1])["name"] == "tiny"
    status, content = curl(f"{front.url}/v2/models/nobody/infer", "-d", "{}")
    assert status == "404"
    assert "error" in json.loads(content)


def test_curl_sends_numbers(front: RunningFront, expected: list[Prediction]) -> None:
    tensor = {"name": "image", "datatype": "FP32", "shape": IMAGES.shape, "data": IMAGES.tolist()}
    body = json.dumps({"id": "a", "inputs": [tensor], "outputs": [{"name": "label"}]}).encode()
    status, content = curl(f"{front.url}/v2/models/tiny/infer", "-d", "@-", body=body)
    answer = json.loads(content)
    assert (status, answer["id"], answer["model_name"]) == ("200", "a", "tiny")
    (output,) = answer["outputs"]
    assert output["data"] == [one.label for one in expected]


def test_curl_sends_bytes(front: RunningFront, expected: list[Prediction]) -> None:
    parameters = {"binary_data_size": IMAGES.nbytes}
    tensor = {"name": "image", "datatype": "FP32", "shape": IMAGES.shape, "parameters": parameters}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}"
    status, content = curl(
        f"{front.url}/v2/models/tiny/infer", "-H", length, "--data-binary", "@-", body=head + IMAGES.tobytes()
    )
    assert status == "200"
    assert json.loads(content)["outputs"][0]["data"] == [one.label for one in expected]


def test_curl_reads_a_stream(front: RunningFront) -> None:
    body = json.dumps({"image": IMAGES[0].reshape(-1).tolist(), "n": 100}).encode()
    status, content = curl("-N", f"{front.url}/v2/models/tiny_certify_stream/generate_stream", "-d", "@-", body=body)
    assert status == "200", content
    events = [json.loads(line.removeprefix(b"data: ")) for line in content.splitlines() if line.startswith(b"data: ")]
    assert events[-1]["votes"] > 0
