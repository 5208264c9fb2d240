"""What the client makes of an answer that is not the contract's: an error that names the tensor."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from test_client import CLIENTS, Predict
from tiny_model import random_images
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from heatserve import AsyncClient, Client, Reason, ServingError, TritonServer
from heatserve.export.repository.layout import CONFIG_NAME
from heatserve.export.repository.settings import read_config
from heatserve.serving.client.address import parse_address
from heatserve.serving.client.answers import read_class_names, read_spec
from heatserve.serving.client.described import Described, KnownVersions
from heatserve.serving.client.failures import Refused, explained
from heatserve.serving.client.messages import GrpcResult

pytestmark = pytest.mark.slow

Change = Callable[[service_pb2.ModelInferResponse], object]


class ChangingProxy(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # untyped
    """Passes requests on to a real Triton, and changes what that answers."""

    def __init__(self, triton: grpc.Channel) -> None:
        self._triton = service_pb2_grpc.GRPCInferenceServiceStub(triton)
        self.change_outputs: Change = id
        self.change_ranking: Change = id
        self.promise = ""
        """What the configurations of the later version (7) promise."""

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        is_later, request.version = request.version == "7", "" if request.version == "7" else request.version
        try:
            answer = self._triton.ModelConfig(request)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
        if is_later and self.promise:
            answer.config.parameters["promise"].string_value = self.promise
        return answer

    def ModelInfer(self, request: Any, _context: object) -> Any:
        answer = self._triton.ModelInfer(request)
        change = self.change_ranking if len(request.outputs) == 1 else self.change_outputs
        change(answer)
        return answer


@pytest.fixture
def proxy(triton: TritonServer) -> Iterator[tuple[str, ChangingProxy]]:
    with (
        grpc.insecure_channel(triton.endpoints.grpc_url.removeprefix("grpc://")) as channel,
        ThreadPoolExecutor(2) as pool,
    ):
        proxy, server = ChangingProxy(channel), grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(proxy, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"grpc://127.0.0.1:{port}", proxy
        server.stop(None).wait()


def remove_all(answer: service_pb2.ModelInferResponse) -> None:
    del answer.outputs[:], answer.raw_output_contents[:]


def remove(name: str) -> Change:
    def change(answer: service_pb2.ModelInferResponse) -> None:
        index = [output.name for output in answer.outputs].index(name)
        del answer.outputs[index], answer.raw_output_contents[index]

    return change


def replace(name: str, datatype: str, shape: list[int], size: int) -> Change:
    """Send `size` bytes of 0 as an output."""

    def change(answer: service_pb2.ModelInferResponse) -> None:
        index = [output.name for output in answer.outputs].index(name)
        answer.outputs[index].datatype = datatype
        answer.outputs[index].shape[:] = shape
        answer.raw_output_contents[index] = bytes(size)

    return change


def other_reason(code: int) -> Change:
    def change(answer: service_pb2.ModelInferResponse) -> None:
        index = [output.name for output in answer.outputs].index("reason")
        answer.raw_output_contents[index] = np.array([0, code]).tobytes()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_all, "label: expected this output from the server, found an answer without it"),
        (remove("l_bound"), "l_bound: expected this output from the server, found an answer without it"),
        (replace("label", "INT32", [2, 1], 8), "label: expected INT64 [2, 1] from the server, found int32 [2, 1]"),
        (replace("label", "INT64", [1, 1], 8), "label: expected INT64 [2, 1] from the server, found int64 [1, 1]"),
        (replace("label", "INT64", [2], 16), "label: expected INT64 [2, 1] from the server, found int64 [2]"),
        (replace("top_k", "INT64", [2, 3], 48), "top_k: expected INT64 [2, 5] from the server, found int64 [2, 3]"),
        (
            replace("probabilities", "FP32", [2, 9], 72),
            "probabilities: expected FP32 [2, 10] from the server, found float32 [2, 9]",
        ),
        (
            replace("certified_radius", "FP64", [2, 1], 16),
            "certified_radius: expected FP32 [2, 1] from the server, found float64 [2, 1]",
        ),
        (replace("nominal_radius", "FP32", [2, 1], 4), "nominal_radius: expected a tensor from the server, found one"),
        (replace("l_bound", "FP99", [2, 1], 8), "l_bound: expected"),
        (other_reason(-1), "reason: expected a number from 0 to 255 from the server, found -1"),
        (other_reason(256), "reason: expected a number from 0 to 255 from the server, found 256"),
    ],
)
@CLIENTS
def test_a_false_output_is_refused(
    proxy: tuple[str, ChangingProxy], change: Change, message: str, predict: Predict
) -> None:
    url, changes = proxy
    assert len(predict(url, "tiny", random_images(2))) == 2
    changes.change_outputs = change
    with pytest.raises(ServingError, match=re.escape(message)):
        predict(url, "tiny", random_images(2))


@CLIENTS
def test_a_reason_of_a_later_version_is_passed_on(proxy: tuple[str, ChangingProxy], predict: Predict) -> None:
    """A client that is older than its server goes on: what a radius promises does not depend on its reason."""
    url, changes = proxy
    usual = predict(url, "tiny", random_images(2))[1]
    changes.change_outputs = other_reason(max(Reason) + 1)
    found = predict(url, "tiny", random_images(2))[1]
    assert (found.reason, found.reason.name) == (max(Reason) + 1, "UNKNOWN")
    assert "does not know" in found.reason.explanation
    assert (found.label, found.certified_radius) == (usual.label, usual.certified_radius)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_all, "probabilities: expected this output from the server, found an answer without it"),
        (
            replace("probabilities", "FP32", [1, 10], 40),
            "probabilities: expected a ranking of the classes from the server, found float32 [1, 10]",
        ),
        (replace("probabilities", "BYTES", [1, 10], 3), "probabilities: expected a tensor from the server, found one"),
    ],
)
@CLIENTS
def test_a_false_ranking_is_refused(
    proxy: tuple[str, ChangingProxy], change: Change, message: str, predict: Predict
) -> None:
    url, changes = proxy
    changes.change_ranking = change
    with pytest.raises(ServingError, match=re.escape(message)):
        predict(url, "tiny", random_images(2))


def other_version(answer: service_pb2.ModelInferResponse) -> None:
    """Answer as a later version does, whose classes have other names."""
    answer.model_version = "7"
    if len(answer.outputs) == 1:  # the ranking of all classes
        names = np.array([f"0.1:{label}:other {label}".encode() for label in range(10)], object)
        answer.raw_output_contents[0] = serialize_byte_tensor(names).item()


def test_the_classes_of_another_version_have_its_own_names(proxy: tuple[str, ChangingProxy]) -> None:
    url, changes = proxy

    async def ask_asyncio() -> list[str | None]:
        changes.change_outputs = changes.change_ranking = id
        async with AsyncClient(url, model="tiny") as client:
            (former,) = await client.predict(random_images(1))
            changes.change_outputs = changes.change_ranking = other_version
            (later,) = await client.predict(random_images(1))
            return [former.class_name, later.class_name]

    with Client(url, model="tiny") as client:
        (former,) = client.predict(random_images(1))
        first = client.spec()
        assert client.spec() is first
        changes.change_outputs = changes.change_ranking = other_version
        (later,) = client.predict(random_images(1))
        assert later.class_name == f"other {later.label}" != former.class_name
        assert client.spec() is not first
        changes.change_outputs = changes.change_ranking = id
        assert client.predict(random_images(1))[0].class_name == former.class_name
        assert client.spec() is first
    assert asyncio.run(ask_asyncio()) == [former.class_name, later.class_name]


def test_another_model_under_the_same_number_is_known_after_a_minute(
    proxy: tuple[str, ChangingProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is started again with another model may number it as before."""

    def same_number(answer: service_pb2.ModelInferResponse) -> None:
        other_version(answer)
        answer.model_version = "1"

    url, changes = proxy
    now = monotonic()

    def set_clock(seconds: float) -> None:
        monkeypatch.setattr("heatserve.serving.client.described.monotonic", lambda: now + seconds)

    async def ask_asyncio() -> str | None:
        async with AsyncClient(url, model="tiny") as client:
            await client.predict(random_images(1))
            changes.change_ranking = same_number
            set_clock(122)
            (later,) = await client.predict(random_images(1))
            return later.class_name

    with Client(url, model="tiny") as client:
        client.predict(random_images(1))
        first = client.spec()
        changes.change_ranking = same_number
        set_clock(59)
        assert client.spec() is first
        set_clock(61)
        (later,) = client.predict(random_images(1))
    assert later.class_name == f"other {later.label}"
    changes.change_ranking = id
    assert asyncio.run(ask_asyncio()) == later.class_name


@CLIENTS
def test_no_version_is_named_by_the_classes_of_another(proxy: tuple[str, ChangingProxy], predict: Predict) -> None:
    """Behind one address may stand servers of two versions, of which one answers and the other one describes."""
    url, changes = proxy
    changes.change_outputs, changes.change_ranking = other_version, id
    with pytest.raises(ServingError, match="expected a description of version 7 of the model, which answered"):
        predict(url, "tiny", random_images(1))


@CLIENTS
def test_no_version_s_classes_stand_beside_the_promise_of_another(
    proxy: tuple[str, ChangingProxy], predict: Predict
) -> None:
    url, changes = proxy
    changes.change_outputs = changes.change_ranking = other_version
    (later,) = predict(url, "tiny", random_images(1))
    assert later.class_name == f"other {later.label}"
    changes.promise = "what version 7 promises, where the server tells what another one does"
    with pytest.raises(ServingError, match="expected a description of version 7 of the model, which answered"):
        predict(url, "tiny", random_images(1))


@pytest.mark.parametrize(("version", "shown"), [("8", "8"), ("8/../1", "8/../1"), ("8\x1b[2J" * 99, "8 [2J8 [2J")])
@CLIENTS
def test_a_version_that_is_gone_or_no_number_is_not_described(
    proxy: tuple[str, ChangingProxy], version: str, shown: str, predict: Predict
) -> None:
    def another(answer: service_pb2.ModelInferResponse) -> None:
        answer.model_version = version

    url, changes = proxy
    changes.change_outputs = changes.change_ranking = another
    with pytest.raises(ServingError, match=re.escape(f"expected a description of version {shown}")) as caught:
        predict(url, "tiny", random_images(1))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


HOSTILE, PLAIN = "a cat\x1b]0;a title\x07\x9b2J\r\nb", "a cat ]0;a title 2J b"


class Failed(grpc.RpcError):  # type: ignore[misc]  # untyped
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INVALID_ARGUMENT

    def details(self) -> str:
        return HOSTILE


@pytest.mark.parametrize("error", [Refused("400", HOSTILE), Failed()])
def test_what_a_server_says_does_nothing_to_a_terminal(error: Exception) -> None:
    with pytest.raises(ServingError) as caught, explained(parse_address("grpc://there:1")):
        raise error
    assert str(caught.value) == PLAIN


def test_names_and_promises_do_nothing_to_a_terminal(tiny_repository: Path) -> None:
    ranking = service_pb2.ModelInferResponse()
    ranking.outputs.add(name="probabilities", datatype="BYTES", shape=[1, 1])
    ranking.raw_output_contents.append(serialize_byte_tensor(np.array([f"0.5:3:{HOSTILE}"], object)).item())
    assert read_class_names(GrpcResult(ranking)) == {3: PLAIN}
    config = MessageToDict(read_config(tiny_repository / "tiny" / CONFIG_NAME), preserving_proto_field_name=True)
    config["parameters"]["promise"] = {"string_value": HOSTILE}
    assert read_spec(config).promise == PLAIN


def test_versions_that_a_server_makes_up_do_not_fill_the_memory(tiny_repository: Path) -> None:
    config = MessageToDict(read_config(tiny_repository / "tiny" / CONFIG_NAME), preserving_proto_field_name=True)
    known = KnownVersions()
    for version in range(1000):
        known.add(Described(read_spec(config), {}, str(version)))
    answers = [GrpcResult(service_pb2.ModelInferResponse(model_version=str(version))) for version in range(1000)]
    kept = [known.of(answer) is not None for answer in answers]
    assert kept[-4:] == [True] * 4
    assert sum(kept) < 20
