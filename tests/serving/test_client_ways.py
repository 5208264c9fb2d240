"""The ways to a server: encrypted, through proxies, over IPv6, with headers and tokens; and wrong ones, explained."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from relays import Certificates, Relay, Seen, host_and_port, http_front, make_certificates, tunnel_proxy
from test_client import PROTOCOLS, url_of
from tiny_model import random_images
from typer.testing import CliRunner

from heatserve import AsyncClient, Client, Prediction, ServingError, Tls, TritonServer, UnavailableError
from heatserve.cli import app
from heatserve.export.tiers import TierModel
from heatserve.serving.client.access import access_to
from heatserve.serving.client.address import parse_address
from heatserve.serving.client.tier_questions import TierQuestion

Ask = Callable[..., list[Prediction]]

ASKED = ("config", "infer", "versions/1/config", "infer")
"""What a client asks of a model, the first time: the last one is the question."""


def ask_blocking(url: str, **options: Any) -> list[Prediction]:
    with Client(url, model="tiny", **options) as client:
        return client.predict(random_images(2))


def ask_asyncio(url: str, **options: Any) -> list[Prediction]:
    async def ask() -> list[Prediction]:
        async with AsyncClient(url, model="tiny", **options) as client:
            return await client.predict(random_images(2))

    return asyncio.run(ask())


CLIENTS = pytest.mark.parametrize("ask", [ask_blocking, ask_asyncio], ids=["blocking", "asyncio"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def encrypted(triton: TritonServer, certificates: Certificates) -> Iterator[dict[str, str]]:
    """`localhost:port` of gRPC and HTTP with TLS, and of both where clients must show a certificate."""
    with ExitStack() as stack:
        found = {}
        for protocol in ("grpc", "http"):
            for name, asks in (("", False), (" for clients", True)):
                context = certificates.server_context(asks_clients=asks)
                relay = Relay(host_and_port(url_of(triton, protocol)), tls=context)
                stack.enter_context(relay)
                found[f"{protocol}{name}"] = f"localhost:{relay.port}"
        yield found


@CLIENTS
@PROTOCOLS
def test_tls_trusts_the_ca_that_it_is_given(
    encrypted: dict[str, str], certificates: Certificates, protocol: str, ask: Ask
) -> None:
    url = f"{protocol}s://{encrypted[protocol]}"
    assert len(ask(url, tls=Tls(ca=certificates.ca))) == 2
    assert len(ask(url.replace("localhost", "127.0.0.1"), tls=Tls(ca=str(certificates.ca)))) == 2
    for tls in (None, Tls(ca=certificates.stranger)):
        with pytest.raises(
            ServingError, match=r"the server's certificate is not one to trust .*give the client its CA"
        ):
            ask(url, tls=tls, timeout=10)


@CLIENTS
@PROTOCOLS
def test_a_certificate_of_another_host_is_not_one_to_trust(
    triton: TritonServer, certificates: Certificates, protocol: str, ask: Ask
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.stranger)
    context.set_alpn_protocols(["h2", "http/1.1"])
    message = "certificate is not one to trust .* the name that is on the certificate as host"
    with (
        Relay(host_and_port(url_of(triton, protocol)), tls=context) as relay,
        pytest.raises(ServingError, match=message) as caught,
    ):
        ask(f"{protocol}s://localhost:{relay.port}", tls=Tls(ca=certificates.stranger), timeout=10)
    assert not isinstance(caught.value, UnavailableError), "which would be asked again"


@CLIENTS
@PROTOCOLS
def test_a_server_may_want_a_certificate_of_the_client(
    encrypted: dict[str, str], certificates: Certificates, protocol: str, ask: Ask
) -> None:
    url = f"{protocol}s://{encrypted[f'{protocol} for clients']}"
    assert len(ask(url, tls=Tls(certificates.ca, certificates.client))) == 2
    for shown in (None, certificates.stranger):
        with pytest.raises(ServingError, match=f"{protocol}s://localhost"):
            ask(url, tls=Tls(certificates.ca, shown), timeout=10)


def test_the_command_line_shows_what_it_is_told(
    encrypted: dict[str, str], certificates: Certificates, tmp_path: Path
) -> None:
    np.save(tmp_path / "image.npy", random_images(1))
    (tmp_path / "token").write_text("secret\n")
    url = f"https://{encrypted['http for clients']}"
    arguments = ["predict", str(tmp_path / "image.npy"), "--model", "tiny", "--url", url, "--ca", str(certificates.ca)]
    arguments += ["--token-file", str(tmp_path / "token"), "--header", "X-Team: heat"]
    done = CliRunner().invoke(app, [*arguments, "--certificate", str(certificates.client)])
    assert done.exit_code == 0, done.output
    assert "certified" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ca": "missing.pem"}, "ca: expected a file of certificates in PEM, got missing.pem: No such file"),
        ({"ca": __file__}, "ca: expected a file of certificates in PEM"),
        ({"certificate": __file__}, "certificate: expected a certificate and its private key in PEM"),
        ({"key": "a.pem"}, "key: expected a certificate with it"),
    ],
)
@pytest.mark.parametrize("scheme", ["grpcs", "https"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_files_of_tls_are_read_before_anything_is_sent(
    kind: type[Any], scheme: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ServingError, match=re.escape(message)):
        kind(f"{scheme}://localhost:1", model="tiny", tls=Tls(**options))


@CLIENTS
def test_http_goes_behind_a_prefix_with_headers_and_a_token(triton: TritonServer, ask: Ask) -> None:
    seen, tokens = Seen(), iter(("first", "second", "third", "fourth"))
    with http_front(triton.endpoints.http_url, prefix="/models/a", seen=seen) as address:
        found = ask(f"http://{address}/models/a/", headers={"X-Team": "heat"}, token=lambda: next(tokens))
        assert len(found) == 2
    assert seen.paths == [f"/models/a/v2/models/tiny/{path}" for path in ASKED]
    found_tokens = [headers["authorization"].removeprefix("Bearer ") for headers in seen.headers]
    assert found_tokens == ["first", "second", "third", "fourth"]
    assert {headers["x-team"] for headers in seen.headers} == {"heat"}


class Passing(grpc.GenericRpcHandler):  # type: ignore[misc]  # untyped
    """Hands requests on to a Triton, whatever stands before its service's name, and keeps paths and metadata."""

    def __init__(self, triton: grpc.Channel) -> None:
        self._triton = triton
        self.seen = list[tuple[str, dict[str, str]]]()

    def service(self, details: Any) -> Any:
        method = details.method[details.method.index("/inference.") :]
        self.seen.append((details.method, dict(details.invocation_metadata)))
        return grpc.unary_unary_rpc_method_handler(lambda request, _: self._triton.unary_unary(method)(request))


@CLIENTS
def test_grpc_goes_behind_a_prefix_with_headers_and_a_token(triton: TritonServer, ask: Ask) -> None:
    with grpc.insecure_channel(triton.endpoints.grpc_url[7:]) as channel, ThreadPoolExecutor(2) as pool:
        passing, server = Passing(channel), grpc.server(pool)
        server.add_generic_rpc_handlers((passing,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        assert len(ask(f"grpc://127.0.0.1:{port}/models/a", headers={"X-Team": "heat"}, token="secret")) == 2
        server.stop(None).wait()
    service = "/models/a/inference.GRPCInferenceService"
    names = ["ModelConfig", "ModelInfer"]
    assert [path for path, _ in passing.seen] == [f"{service}/{name}" for name in names * 2]
    for _, metadata in passing.seen:
        assert (metadata["x-team"], metadata["authorization"]) == ("heat", "Bearer secret")


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("grpc://10.0.0.1:1", {"token": "a"}, "token: expected with a URL grpcs:// or https://"),
        ("http://elsewhere.localhost:1", {"token": "a"}, "token: expected with a URL grpcs:// or https://"),
        ("https://10.0.0.1", {"token": "a\n"}, "token: expected visible ASCII characters"),
        ("https://10.0.0.1", {"token": "a", "headers": {"Authorization": "b"}}, "token: expected one of a token and"),
        ("grpc://10.0.0.1:1", {"tls": Tls()}, "tls: expected with a URL grpcs:// or https://"),
        ("http://10.0.0.1", {"headers": {"A b": "c"}}, "headers: expected a name of letters"),
        ("http://10.0.0.1", {"headers": {"X": "a\r\nY: b"}}, "headers: expected the value of 'X' in visible ASCII"),
        ("http://10.0.0.1", {"headers": {"Content-Length": "1"}}, "headers: expected none that belong to the protocol"),
        ("http://10.0.0.1", {"headers": {"A": "1", "a": "2"}}, "headers: expected each name once"),
        ("https://me:secret@10.0.0.1", {}, "url: expected an address without a password"),
        ("10.0.0.1:1", {"timeout": None}, "timeout: expected seconds above 0, at most 1e+09, got None"),
        ("10.0.0.1:1", {"timeout": float("inf")}, "timeout: expected seconds above 0, at most 1e+09, got inf"),
        ("http://10.0.0.1", {"timeout": 0}, "timeout: expected seconds above 0, at most 1e+09, got 0"),
        ("http://10.0.0.1", {"timeout": float("nan")}, "timeout: expected seconds above 0, at most 1e+09, got nan"),
        ("http://10.0.0.1", {"retries": None}, "retries: expected a whole number, at least 0, got None"),
        ("10.0.0.1:1", {"retries": -1}, "retries: expected a whole number, at least 0, got -1"),
        (None, {}, "url: expected text, got None"),
        (8001, {}, "url: expected text, got 8001"),
        (b"10.0.0.1:1", {}, "url: expected text, got b'10.0.0.1:1'"),
        ("10.0.0.1:1", {"model": 5}, "model: expected the name of a model, got 5"),
        ("10.0.0.1:1", {"model": None}, "model: expected the name of a model, got None"),
        ("http://10.0.0.1", {"headers": "X: 5"}, "headers: expected a dict of names and values, got 'X: 5'"),
        ("http://10.0.0.1", {"headers": [("X", "5")]}, "headers: expected a dict of names and values, got"),
        ("https://10.0.0.1", {"tls": "ca.pem"}, "tls: expected an object of heatserve's Tls, got 'ca.pem'"),
        ("https://10.0.0.1", {"tls": True}, "tls: expected an object of heatserve's Tls, got True"),
        ("https://10.0.0.1", {"token": b"secret"}, "token: expected text, or a function that returns it, got an"),
    ],
)
def test_what_no_request_can_have(url: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ServingError, match=re.escape(message)) as error:
        Client(url, **{"model": "tiny", **options})
    assert "secret" not in str(error.value)
    with pytest.raises(ServingError, match=re.escape(message)):
        AsyncClient(url, **{"model": "tiny", **options})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"request_id": 5}, "request_id: expected printable text of at most 128 characters, got 5"),
        ({"request_id": ""}, "request_id: expected printable text of at most 128 characters, got ''"),
        ({"request_id": "a\n"}, "request_id: expected printable text"),
        ({"request_id": "a" * 129}, "request_id: expected printable text"),
        ({"outputs": 5}, "outputs: expected some of"),
        ({"outputs": [5]}, "outputs: expected some of"),
    ],
)
@PROTOCOLS
def test_what_no_question_can_have(triton: TritonServer, protocol: str, asked: dict[str, Any], message: str) -> None:
    with Client(url_of(triton, protocol), model="tiny") as client, pytest.raises(ServingError, match=message):
        client.predict(np.zeros((1, 1, 8, 8), np.float32), **asked)


@pytest.mark.parametrize("name", ["radius", "n"])
def test_yes_is_no_number(name: str) -> None:
    asked: dict[str, Any] = {"radius": 0.1, name: True}
    with pytest.raises(ServingError, match=f"^{name}: expected a (finite|whole) number, got True"):
        TierQuestion(TierModel.CONFIRM, **asked)


@CLIENTS
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_longest_timeout_is_one_that_a_request_can_have(triton: TritonServer, protocol: str, ask: Ask) -> None:
    assert len(ask(url_of(triton, protocol), timeout=1e9)) == 2


def test_a_secret_is_in_no_repr() -> None:
    access = access_to("https://a", headers={"X-Key": "hidden"}, token="secret")
    assert access.request_headers() == {"x-key": "hidden", "authorization": "Bearer secret"}
    assert "hidden" not in repr(access)
    assert "secret" not in repr(access)


@CLIENTS
@PROTOCOLS
def test_ipv6(triton: TritonServer, protocol: str, ask: Ask) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with Relay(host_and_port(url_of(triton, protocol)), host="::1") as relay:
        assert len(ask(f"{protocol}://{relay.address}")) == 2
        assert relay.connections


@CLIENTS
@PROTOCOLS
def test_no_proxy_is_asked_for_the_way_to_this_machine(
    triton: TritonServer, protocol: str, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert len(ask(url_of(triton, protocol))) == 2
    assert len(ask(url_of(triton, protocol).replace("127.0.0.1", "localhost"))) == 2


@CLIENTS
def test_http_goes_through_the_proxy_of_the_environment(
    triton: TritonServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()
    with http_front(triton.endpoints.http_url, seen=seen) as address:
        monkeypatch.setenv("http_proxy", f"http://me:secret@{address}")
        assert len(ask("http://triton.example:8000")) == 2
        assert seen.paths[0] == "http://triton.example:8000/v2/models/tiny/config"
        assert {headers["proxy-authorization"] for headers in seen.headers} == {"Basic bWU6c2VjcmV0"}
        monkeypatch.setenv("no_proxy", "triton.example")
        with pytest.raises(ServingError, match="no server answers here"):
            ask("http://triton.example:8000", retries=0)
    assert len(seen.paths) == len(ASKED)


@CLIENTS
@pytest.mark.parametrize("scheme", ["grpc", "grpcs", "https"])
def test_other_ways_go_through_a_tunnel_of_the_proxy(
    triton: TritonServer,
    encrypted: dict[str, str],
    certificates: Certificates,
    scheme: str,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = f"grpc://{encrypted['grpc']}" if scheme == "grpcs" else f"http://{encrypted['http']}"
    target = host_and_port(triton.endpoints.grpc_url if scheme == "grpc" else where)
    tls = None if scheme == "grpc" else Tls(certificates.ca)
    asked = list[str]()
    with tunnel_proxy(target, asked) as proxy:
        monkeypatch.setenv("https_proxy", proxy)
        assert len(ask(f"{scheme}://triton.example:8443", tls=tls)) == 2
    assert asked[0].startswith("CONNECT triton.example:8443 ")


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(ServingError, match="expected an http:// proxy in the environment, found one of socks5://"):
        ask_blocking("http://triton.example")


@CLIENTS
def test_the_wrong_port_is_explained(triton: TritonServer, encrypted: dict[str, str], ask: Ask) -> None:
    grpc_address, http_address = triton.endpoints.grpc_url[7:], triton.endpoints.http_url[7:]
    for url, message in (
        (f"http://{grpc_address}", f"expected HTTP, found that gRPC is spoken here; try grpc://{grpc_address}"),
        (f"grpc://{http_address}", f"expected gRPC, found that HTTP is spoken here; try http://{http_address}"),
        (f"https://{http_address}", f"expected TLS, found that HTTP is spoken here; try http://{http_address}"),
        (f"grpcs://{grpc_address}", f"expected TLS, found that gRPC is spoken here; try grpc://{grpc_address}"),
        (f"http://{encrypted['http']}", "expected HTTP, found that TLS is spoken here; try https://"),
        (f"grpc://{encrypted['grpc']}", "expected gRPC, found that TLS is spoken here; try grpcs://"),
    ):
        with pytest.raises(ServingError, match=re.escape(message)):
            ask(url, retries=0, timeout=10)


@CLIENTS
def test_another_service_is_explained(triton: TritonServer, ask: Ask) -> None:
    for url in (f"{triton.endpoints.http_url}/wrong", f"{triton.endpoints.grpc_url}/wrong"):
        with pytest.raises(ServingError, match="expected a server of models, found another service"):
            ask(url)
    seen = Seen()
    with http_front(triton.endpoints.http_url, seen=seen) as address:
        for status, headers, body, message in (
            (200, {}, b"<html>", "expected the configuration of a model from the server, found b'<html>'"),
            (200, {}, b'{"name": "a"}', "expected the configuration of a model from the server, found another answer"),
            (200, {}, b"", "expected the configuration of a model from the server, found an empty answer"),
            (200, {}, b"[]", "expected the configuration of a model from the server, found b'[]'"),
            (302, {"Location": "http://b/"}, b"", "found a redirection to http://b/"),
            (401, {}, b"", "this client is not let in (HTTP 401)"),
            (403, {}, b"<html>", "this client is not let in (HTTP 403)"),
            (404, {}, b"<html>", "expected a server of models, found another service (HTTP 404)"),
            (413, {}, b"", "larger than what is in front of the server takes"),
            (503, {}, b"<html>", "what is in front of the server reaches none (HTTP 503)"),
        ):
            seen.answers[:] = [(status, headers, body)]
            with pytest.raises(ServingError, match=re.escape(message)):
                ask(f"http://{address}", retries=0)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("127.0.0.1:8001", "grpc://127.0.0.1:8001"),
        ("grpcs://a", "grpcs://a:443"),
        ("http://a/b/c/", "http://a:80/b/c"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]:443"),
        ("[::1]:8001", "grpc://[::1]:8001"),
    ],
)
def test_an_address_as_errors_name_it(url: str, found: str) -> None:
    assert parse_address(url).url == found


@pytest.mark.parametrize(
    "url",
    ["", "grpc://", "grpc://a", "ftp://a:1", "http://a b", "http://a?q", "http://a:x", "http://a:99999", "http://::1"],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ServingError, match="url: expected grpc://host:port"):
        parse_address(url)


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("http://localhost", True),
        ("http://127.1.2.3", True),
        ("http://[::1]", True),
        ("http://[::ffff:127.0.0.1]", True),
        ("http://0.0.0.0", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
        ("http://elsewhere.localhost", False),
    ],
)
def test_what_is_this_machine(url: str, is_loopback: bool) -> None:
    assert parse_address(url).is_loopback is is_loopback
