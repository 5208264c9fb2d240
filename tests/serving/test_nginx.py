"""gRPC beyond this machine: a real nginx with the configuration of deploy/nginx/ before a real server."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from nginx import CALLER, TOKEN, Nginx, nginx_before
from programs import program
from relays import Certificates, make_certificates
from tiny_model import write_tiny_model
from tiny_tiers import PATIENT_SECONDS, RADIUS, grid_images
from tritonclient.grpc import service_pb2, service_pb2_grpc

from heatserve import (
    FREE_PORTS,
    AsyncClient,
    Client,
    OverloadedError,
    Prediction,
    ServingError,
    Tls,
    TritonServer,
    UnavailableError,
    UnknownModelError,
)

SERVICE = "/inference.GRPCInferenceService/"
OPEN_TO_ALL = ("ServerLive", "ServerReady")
OPEN_TO_CALLERS = ("ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelInfer", "ModelStreamInfer")
AUTHORIZED = (("authorization", f"Bearer {TOKEN}"),)
MEGABYTE = 2**20
Silence = Callable[[], Iterator[bytes]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def nginx(tiers: TritonServer, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """The configuration as it is."""
    with nginx_before(tiers.endpoints.grpc, certificates, tmp_path_factory.mktemp("nginx")) as running:
        yield running


@pytest.fixture(scope="module")
def strict(
    tiers: TritonServer, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    """The same with short times and few connections; five requests of a caller at once, then one in two seconds."""
    change = {
        "client_header_timeout 10s": "client_header_timeout 3s",
        "client_body_timeout 10s": "client_body_timeout 3s",
        "worker_connections 2048": "worker_connections 100",
        "zone=by_caller:10m rate=500r/s": "zone=by_caller:10m rate=30r/m",
        "zone=by_caller burst=250": "zone=by_caller burst=4",
    }
    with nginx_before(tiers.endpoints.grpc, certificates, tmp_path_factory.mktemp("strict"), change=change) as running:
        yield running


@pytest.fixture
def channel(nginx: Nginx, certificates: Certificates) -> Iterator[grpc.Channel]:
    with channel_to(nginx, certificates) as channel:
        yield channel


def channel_to(nginx: Nginx, certificates: Certificates, *, shown: Path | None = None) -> grpc.Channel:
    certificate = None if shown is None else shown.read_bytes()
    credentials = grpc.ssl_channel_credentials(certificates.ca.read_bytes(), certificate, certificate)
    return grpc.secure_channel(f"localhost:{nginx.port}", credentials, options=[("grpc.enable_retries", 0)])


def refused(call: Any, request: Any, metadata: Any = AUTHORIZED, **options: Any) -> tuple[str, str]:
    """Status and message of a call that must fail."""
    try:
        answer = call(request, metadata=metadata, timeout=60, **options)
        found = list(answer) if hasattr(answer, "__next__") else answer
    except grpc.RpcError as error:
        return status_of(error), error.details() or ""  # type: ignore[attr-defined]
    raise AssertionError(f"expected an error, got {found}")


def status_of(error: grpc.RpcError) -> str:
    return str(error.code().name)  # type: ignore[attr-defined]


def method(channel: grpc.Channel, path: str) -> Any:
    """A method that takes and gives bytes."""
    return channel.unary_unary(path)


def infer_request(size: int) -> service_pb2.ModelInferRequest:
    return service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[bytes(size)])


def test_known_callers_are_answered_as_without_nginx(
    nginx: Nginx, tiers: TritonServer, certificates: Certificates
) -> None:
    images = grid_images(8)
    with Client(tiers.endpoints.grpc_url, model="tiny") as client:
        expected = client.predict(images)
    for options in ({"token": TOKEN}, {"tls": Tls(certificates.ca, certificates.client)}):
        ways: dict[str, Any] = {"tls": Tls(certificates.ca), **options}
        with Client(nginx.url, model="tiny", **ways) as client:
            same(client.predict(images), expected)

        async def ask(ways: dict[str, Any] = ways) -> list[Prediction]:
            async with AsyncClient(nginx.url, model="tiny", **ways) as client:
                return await client.predict(images)

        same(asyncio.run(ask()), expected)


def same(found: list[Prediction], expected: list[Prediction]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        assert (one.label, one.certified_radius) == (other.label, other.certified_radius)


def test_tiers_are_reached(nginx: Nginx, certificates: Certificates) -> None:
    with Client(nginx.url, model="tiny", tls=Tls(certificates.ca), token=TOKEN, timeout=PATIENT_SECONDS) as client:
        assert any(answer.votes for answer in client.confirm(grid_images(8), radius=RADIUS, n=400))
        assert next(iter(client.certify(grid_images(1)[0], n=100))).votes > 0


@pytest.mark.parametrize("given", ["nothing", "another token", "a part of the token", "a stranger's certificate"])
def test_strangers_are_not_let_in(nginx: Nginx, certificates: Certificates, given: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "nothing": {},
        "another token": {"token": "0" * len(TOKEN)},
        "a part of the token": {"token": TOKEN[:-1]},
        "a stranger's certificate": {"tls": Tls(certificates.ca, certificates.stranger), "token": TOKEN},
    }
    ways: dict[str, Any] = {"tls": Tls(certificates.ca), **options[given]}
    with (
        Client(nginx.url, model="tiny", **ways) as client,
        pytest.raises(ServingError, match=r"this client is not let in .*expected a token"),
    ):
        client.predict(grid_images(1))
    written = (nginx.folder / "access.log").read_text() + (nginx.folder / "error.log").read_text()
    assert TOKEN[:-1] not in written


def test_only_infer_metadata_and_health_pass(channel: grpc.Channel) -> None:
    """Of all methods that the protocol has, and of some that other services of such a port might have."""
    (service,) = service_pb2.DESCRIPTOR.services_by_name.values()
    methods = [entry.name for entry in service.methods]
    assert {*OPEN_TO_ALL, *OPEN_TO_CALLERS} < set(methods)
    closed = [f"{SERVICE}{name}" for name in methods if name not in OPEN_TO_ALL + OPEN_TO_CALLERS]
    closed += ["/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/", "/v2"]
    assert f"{SERVICE}RepositoryModelLoad" in closed
    for path in closed:
        status, message = refused(method(channel, path), b"")
        assert status == "UNIMPLEMENTED", path
        assert "closed here" in message, path
    for name in OPEN_TO_CALLERS:
        assert refused(method(channel, f"{SERVICE}{name}"), b"", metadata=())[0] == "UNAUTHENTICATED", name
    for name in OPEN_TO_ALL:
        assert method(channel, f"{SERVICE}{name}")(b"") == b"\x08\x01", name
    assert method(channel, "/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"
    assert method(channel, f"{SERVICE}ServerMetadata")(b"", metadata=AUTHORIZED)


@pytest.mark.parametrize(
    "path",
    [
        f"{SERVICE}ModelInfer/../RepositoryIndex",
        f"{SERVICE}RepositoryIndex/../ModelInfer",
        f"{SERVICE}RepositoryIndex/%2e%2e/ModelInfer",
        f"{SERVICE}%52epositoryIndex",
        f"/{SERVICE}RepositoryIndex",
        f"{SERVICE}ModelInfer/RepositoryIndex",
        f"{SERVICE}repositoryindex",
        f"{SERVICE}RepositoryIndex?{SERVICE}ModelInfer",
        f"{SERVICE}RepositoryIndex#{SERVICE}ModelInfer",
    ],
)
def test_other_writings_of_a_path_open_nothing(channel: grpc.Channel, path: str) -> None:
    """The repository's index is an answer without a status, whoever refuses it."""
    assert refused(method(channel, path), b"")[0] in ("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"), path


def test_a_large_request_is_refused_where_it_passes_the_limit(nginx: Nginx, channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    for call, request, most in (
        (stub.ModelInfer, infer_request(41 * MEGABYTE), 41 * MEGABYTE),
        (stub.ModelStreamInfer, iter([infer_request(2 * MEGABYTE)]), 2 * MEGABYTE),
    ):
        known = len(nginx.requests())
        assert refused(call, request) == (
            "RESOURCE_EXHAUSTED",
            "expected a smaller request: this one is larger than the server takes",
        )
        assert nginx.next_request(known)["bytes"] < most
    # Many small messages in one stream are no way around it: where answers were sent already, the stream is cut.
    known = len(nginx.requests())
    assert refused(stub.ModelStreamInfer, (infer_request(10_000) for _ in range(200)))[0] in (
        "RESOURCE_EXHAUSTED",
        "INTERNAL",
    )
    assert nginx.next_request(known)["bytes"] < 2 * MEGABYTE


def test_compressed_messages_are_refused(channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        found = refused(stub.ModelInfer, infer_request(MEGABYTE), compression=compression)
        assert found == ("UNIMPLEMENTED", "expected a message that is not compressed")
    encoded = [*AUTHORIZED, ("content-encoding", "gzip")]
    assert refused(method(channel, f"{SERVICE}ModelInfer"), gzip.compress(b""), metadata=encoded)[0] == "UNIMPLEMENTED"


def test_what_is_not_grpc_is_refused(nginx: Nginx, certificates: Certificates) -> None:
    connection = http.client.HTTPSConnection(
        "localhost", nginx.port, context=ssl.create_default_context(cafile=certificates.ca)
    )
    with closing(connection):
        for path, kind in (("/v2/health/live", "application/json"), (f"{SERVICE}ServerLive", "application/grpc")):
            connection.request("POST", path, b"", {"Content-Type": kind})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 415, path
    curl = [program("curl"), "-s", "--http2", "--cacert", str(certificates.ca), f"https://localhost:{nginx.port}/"]
    done = subprocess.run([*curl, "-o", "/dev/null", "-w", "%{http_code}"], capture_output=True, text=True, check=True)
    assert done.stdout == "415"


def test_a_request_is_in_the_log_with_its_caller(nginx: Nginx, certificates: Certificates, channel: Any) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    call = method(channel, f"{SERVICE}ServerMetadata")
    known = len(nginx.requests())
    call(b"", metadata=[*AUTHORIZED, ("traceparent", traceparent)])
    line = nginx.next_request(known)
    assert (line["caller"], line["method"], line["grpc_status"]) == (CALLER, f"{SERVICE}ServerMetadata", "0")
    assert line["traceparent"] == traceparent
    assert refused(call, b"", metadata=())[0] == "UNAUTHENTICATED"
    line = nginx.next_request(known + 1)
    assert (line["caller"], line["grpc_status"]) == ("", "16")
    with Client(nginx.url, model="tiny", tls=Tls(certificates.ca, certificates.client)) as client:
        client.predict(grid_images(1))
    assert nginx.next_request(known + 2)["caller"] == "CN=client"


def test_errors_of_the_server_come_through(nginx: Nginx, certificates: Certificates) -> None:
    with (
        Client(nginx.url, model="nothing", tls=Tls(certificates.ca), token=TOKEN) as client,
        pytest.raises(UnknownModelError, match="nothing"),
    ):
        client.predict(grid_images(1))


@pytest.mark.parametrize("way", ["directly", "nginx"])
def test_a_header_that_changes_how_triton_ends_streams_does_not_pass(
    tmp_path: Path, channel: grpc.Channel, way: str
) -> None:
    """With it, the first error is the end of a stream: a use after free was fixed in that mode after Triton 2.51.

    It can end a Triton that it reaches, so that one is of this test only.
    """
    mode = [*AUTHORIZED, ("triton_grpc_error", "true")]
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=[1, 1, 8, 8])
    invalid = np.full((1, 1, 8, 8), 2, np.float32).tobytes()
    request = service_pb2.ModelInferRequest(model_name="tiny", inputs=[tensor], raw_input_contents=[invalid])

    def first_answer(through: grpc.Channel) -> Any:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(through)
        return next(stub.ModelStreamInfer(iter([request]), metadata=mode, timeout=60))

    if way == "nginx":
        assert "image" in first_answer(channel).error_message
        return
    write_tiny_model(tmp_path)
    with TritonServer(tmp_path, endpoints=FREE_PORTS) as own:
        address = own.endpoints.grpc_url.removeprefix("grpc://")
        with grpc.insecure_channel(address) as direct, pytest.raises(grpc.RpcError, match="image"):
            first_answer(direct)


def test_who_asks_too_often_is_told_when_to_ask_again(strict: Nginx, certificates: Certificates) -> None:
    with Client(strict.url, model="tiny", tls=Tls(certificates.ca), token=TOKEN) as client:
        client.predict(grid_images(1))
        with pytest.raises(OverloadedError, match="too many requests") as caught:
            [client.predict(grid_images(1)) for _ in range(10)]
        assert caught.value.retry_after == 1
    with channel_to(strict, certificates) as channel:  # a limit of that caller, not of others
        assert method(channel, f"{SERVICE}ServerReady")(b"") == b"\x08\x01"


def test_guesses_of_tokens_count_for_the_rate_of_their_address(
    tiers: TritonServer, certificates: Certificates, tmp_path: Path
) -> None:
    change = {"rate=1000r/s": "rate=1r/m", "zone=by_address burst=500": "zone=by_address burst=4"}
    with (
        nginx_before(tiers.endpoints.grpc, certificates, tmp_path, change=change) as nginx,
        channel_to(nginx, certificates) as channel,
    ):
        call, guess = method(channel, f"{SERVICE}ModelReady"), (("authorization", f"Bearer {TOKEN[:-1]}"),)
        found = [refused(call, b"", metadata=guess)[0] for _ in range(8)]
    assert found == ["UNAUTHENTICATED"] * 5 + ["RESOURCE_EXHAUSTED"] * 3


@pytest.mark.slow
def test_silent_callers_are_closed(strict: Nginx, certificates: Certificates, never_ending: Silence) -> None:
    """Before the handshake, after it, and within a request: all at once, since each takes three seconds."""
    context = ssl.create_default_context(cafile=certificates.ca)
    context.set_alpn_protocols(["h2"])
    known = len(strict.requests())
    with (
        socket.create_connection(("127.0.0.1", strict.port), timeout=60) as before,
        socket.create_connection(("127.0.0.1", strict.port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as after,
        channel_to(strict, certificates, shown=certificates.client) as channel,
    ):
        after.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        call = channel.stream_unary(f"{SERVICE}ModelInfer")
        assert refused(call, never_ending(), metadata=())[0] == "INTERNAL"
        assert strict.next_request(known)["status"] == 408
        assert before.recv(1) == b""
        while after.recv(4096):
            pass


@pytest.fixture
def never_ending() -> Iterator[Silence]:
    """Makes requests of which nothing comes as long as the test runs; gRPC waits for each in a thread."""
    over = threading.Event()

    def request() -> Iterator[bytes]:
        over.wait(120)
        yield b""

    yield request
    over.set()


def test_connections_that_say_nothing_keep_nobody_out(strict: Nginx, certificates: Certificates) -> None:
    silent = [socket.create_connection(("127.0.0.1", strict.port), timeout=60) for _ in range(300)]
    try:
        with channel_to(strict, certificates) as channel:
            assert method(channel, f"{SERVICE}ServerReady")(b"", timeout=60) == b"\x08\x01"
    finally:
        for connection in silent:
            connection.close()


def test_requests_at_once_are_limited(
    tiers: TritonServer, certificates: Certificates, tmp_path: Path, never_ending: Silence
) -> None:
    change = {"open_by_address 64;": "open_by_address 2;", "client_body_timeout 10s": "client_body_timeout 90s"}
    with (
        nginx_before(tiers.endpoints.grpc, certificates, tmp_path, change=change) as nginx,
        channel_to(nginx, certificates) as channel,
    ):
        call = channel.stream_unary(f"{SERVICE}ModelInfer")
        ready = method(channel, f"{SERVICE}ServerReady")
        held: list[Any] = []
        found, deadline = None, time.monotonic() + 60
        while found is None and time.monotonic() < deadline:  # until nginx knows of the others
            held = [one for one in held if not one.done()]
            held += [call.future(never_ending(), metadata=AUTHORIZED) for _ in range(2 - len(held))]
            found = failure(ready)
        assert found == ("RESOURCE_EXHAUSTED", "too many requests; ask again in about 1 s")
        for one in held:
            one.cancel()
        while found is not None and time.monotonic() < deadline:  # until it knows that they are gone
            found = failure(ready)
        assert found is None


def failure(call: Any) -> tuple[str, str] | None:
    """Status and message of a call, a moment later; None: it is answered."""
    time.sleep(0.02)
    try:
        call(b"", timeout=60)
    except grpc.RpcError as error:
        return status_of(error), error.details()  # type: ignore[attr-defined]
    return None


def test_cancelled_requests_leave_the_next_one_alone(channel: grpc.Channel, never_ending: Silence) -> None:
    call = channel.stream_unary(f"{SERVICE}ModelInfer")
    for _ in range(20):
        call.future(never_ending(), metadata=AUTHORIZED).cancel()
    assert method(channel, f"{SERVICE}ServerMetadata")(b"", metadata=AUTHORIZED, timeout=60)


def test_without_a_server_callers_are_told_to_ask_again(certificates: Certificates, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and it does not listen
        with (
            nginx_before(nobody.getsockname()[1], certificates, tmp_path) as nginx,
            Client(nginx.url, model="tiny", tls=Tls(certificates.ca), token=TOKEN, retries=0) as client,
            pytest.raises(UnavailableError, match="the server of models does not answer now"),
        ):
            client.predict(grid_images(1))
