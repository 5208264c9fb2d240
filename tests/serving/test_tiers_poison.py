"""Tiers of models that take pictures, and of others: no request, however malformed, ends one or sees its inside."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from known_tiers import hurry, word_of
from test_poison import INSIDE_OF_THE_SERVER, honest_request, poison, refusal
from test_server import triton_process
from tiny_model import take_uint8, write_tiny_model
from tritonclient.grpc import service_pb2, service_pb2_grpc

from heatserve import FREE_PORTS, TritonServer
from heatserve.export.card import read_card
from heatserve.export.repository.tiers import write_tier_configs
from heatserve.export.tiers import TierModel
from heatserve.serving.triton.processes import triton_and_instances

pytestmark = pytest.mark.slow

KINDS = (TierModel.CONFIRM, TierModel.CERTIFY)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Models `patient`, of numbers, and `pictures`, of any size."""
    repository = tmp_path_factory.mktemp("repository")
    for name in ("patient", "pictures"):
        version_dir = write_tiny_model(repository, name, calibrated=False)
        if name == "pictures":
            take_uint8(version_dir, resize=12)
        write_tier_configs(repository, read_card(version_dir), KINDS)
    with TritonServer(repository, endpoints=FREE_PORTS) as server:
        for name in ("patient", "pictures"):
            hurry(server, name)
        yield server


@pytest.fixture
def stub(server: TritonServer) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.endpoints.grpc_url.removeprefix("grpc://")) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def to_tier(
    request: service_pb2.ModelInferRequest, kind: TierModel, **parameters: float
) -> service_pb2.ModelInferRequest:
    """The same request to a tier of its model, for all outputs."""
    request.model_name = kind.beside(request.model_name)
    if not any(output.name == "radius" for output in request.outputs):  # which no tier has either
        del request.outputs[:]
    for name, value in parameters.items():
        request.parameters[name].double_param = value
    return request


def options(kind: TierModel) -> dict[str, float]:
    return {"n": 100, "deadline_ms": 30_000, **({"radius": 0.01} if kind is TierModel.CONFIRM else {})}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["patient", "pictures"])
def test_what_no_model_takes_no_tier_takes(
    server: TritonServer, stub: service_pb2_grpc.GRPCInferenceServiceStub, model: str, kind: TierModel
) -> None:
    processes = triton_and_instances(triton_process(server))
    for request in poison(model):
        status, message = refusal(stub.ModelInfer, to_tier(request, kind, **options(kind)))
        assert status is grpc.StatusCode.INVALID_ARGUMENT, message
        assert not INSIDE_OF_THE_SERVER.search(message.replace("8-bit", "")), message
    answer = stub.ModelInfer(to_tier(honest_request(model, 1), kind, **options(kind)), timeout=60)
    assert [output.shape[0] for output in answer.outputs] == [2] * len(answer.outputs)
    assert not any(process.look().is_dead for process in processes)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e308, -0.0])
def test_numbers_that_are_none_are_no_parameters(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, number: float
) -> None:
    for name in ("radius", "n", "deadline_ms", "alpha", "more"):
        request = to_tier(honest_request("patient", 1), TierModel.CONFIRM, **{"radius": 0.01, name: number})
        if (name, number) == ("deadline_ms", 0.0):
            continue
        status, message = refusal(stub.ModelInfer, request)
        assert status is grpc.StatusCode.INVALID_ARGUMENT, message
        assert message.startswith((name, "parameters")), message


def test_text_that_is_none_is_refused(server: TritonServer) -> None:
    pixels = ",".join(["0"] * 64)
    for value in (b"\xff\xfe", b"\xc3\x28"):
        body = b'{"image": [' + pixels.encode() + b'], "radius": "' + value + b'"}'
        request = urllib.request.Request(f"{server.endpoints.http_url}/v2/models/patient_confirm/generate", body)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=60)
        assert caught.value.code == 400
        assert b"parameters: expected text in UTF-8, got other bytes" in caught.value.read()


def test_votes_on_a_picture_are_taken_on_what_the_network_gets(
    stub: service_pb2_grpc.GRPCInferenceServiceStub,
) -> None:
    """A picture of any size is cut out by the graph itself, and lies on the 8-bit grid; so does each of several."""
    answer = stub.ModelInfer(to_tier(honest_request("pictures", 1), TierModel.CERTIFY, n=200.0), timeout=60)
    values: dict[str, Any] = dict(
        zip([output.name for output in answer.outputs], answer.raw_output_contents, strict=True)
    )
    assert [word_of("sampling", code) for code in np.frombuffer(values["sampling"], np.int64).tolist()] == ["grid"] * 2
    assert np.frombuffer(values["votes"], np.int64).tolist() == [300, 300]
