"""Which Triton it is, and what it may listen on: below the floor, on this machine only."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import tritonclient.grpc
from fronts import front_before, state_of_triton
from relays import Certificates, make_certificates
from tiny_model import random_images

from heatserve import Client, Endpoints, ServingError, Tls, TritonServer
from heatserve.serving.client.connection import Connection
from heatserve.serving.triton import versions
from heatserve.serving.triton.endpoints import SERVICES, behind_front
from heatserve.serving.triton.installation import Triton, find_triton
from heatserve.serving.triton.tls import GrpcTls, ServerTls
from heatserve.serving.triton.versions import FLOOR, TritonVersion, below_floor, version_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")

OLD = TritonVersion(2, 51)


def pretend(folder: Path, says: str) -> Triton:
    """A program in Triton's place, which says something and ends as Triton does without models."""
    binary = folder / "tritonserver"
    binary.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit 1\n")
    binary.chmod(0o755)
    return Triton(binary, folder)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("2.51.0", OLD),
        ("2.59.1", TritonVersion(2, 59, 1)),
        ("2.70.0", FLOOR),
        ("2.70.0dev", TritonVersion(2, 70, 0, is_release=False)),
        ("10.0.3", TritonVersion(10, 0, 3)),
        ("unknown", None),
    ],
)
def test_version_is_what_the_program_says(tmp_path: Path, said: str, version: TritonVersion | None) -> None:
    table = f"| Option           | Value  |\n| server_version                   | {said}    |\n| exit_timeout | 30 |"
    assert version_of(pretend(tmp_path, table)) == version


def test_program_that_does_not_run_has_no_version(tmp_path: Path) -> None:
    assert version_of(Triton(tmp_path / "tritonserver", tmp_path)) is None
    (tmp_path / "tritonserver").write_text("not a program")
    assert version_of(Triton(tmp_path / "tritonserver", tmp_path)) is None


def test_version_is_asked_again_where_the_program_changed(tmp_path: Path) -> None:
    assert version_of(pretend(tmp_path, "| server_version | 2.51.0 |")) == OLD
    assert version_of(pretend(tmp_path, "| server_version | 2.71.0 |")) == TritonVersion(2, 71)


def test_floor() -> None:
    for version in (OLD, TritonVersion(2, 69, 9), TritonVersion(2, 70, 0, is_release=False)):
        assert str(version) in (below_floor(version) or "")
    assert "unknown" in (below_floor(None) or "")
    for version in (FLOOR, TritonVersion(2, 70, 1), TritonVersion(3, 0)):
        assert below_floor(version) is None


@pytest.mark.parametrize("version", [OLD, None])
def test_http_of_an_old_triton_is_refused_to_other_machines(version: TritonVersion | None) -> None:
    with pytest.raises(ServingError, match=r"--triton-http-port 8003: expected Triton 2\.70\.0 or newer"):
        behind_front(Endpoints(host="0.0.0.0"), version, triton_http=8003)


def test_behind_a_front_only_grpc_is_at_the_host() -> None:
    wanted = Endpoints(host="0.0.0.0", grpc=9001)
    hidden = behind_front(wanted, FLOOR)
    assert [hidden.address(service) for service in SERVICES] == ["127.0.0.1", "0.0.0.0", "127.0.0.1"]
    assert (hidden.http, hidden.grpc, hidden.metrics) == (0, 9001, 0)
    shown = behind_front(wanted, FLOOR, triton_http=8003)
    assert (shown.address("http"), shown.http, shown.address("metrics")) == ("0.0.0.0", 8003, "127.0.0.1")
    assert behind_front(Endpoints(), OLD, triton_http=8003).http == 8003


def test_running_triton_is_of_the_version_that_was_read(triton: TritonServer) -> None:
    address = triton.endpoints.grpc_url.removeprefix("grpc://")
    with tritonclient.grpc.InferenceServerClient(address) as client:
        major, minor, patch = map(int, client.get_server_metadata().version.split("."))
    assert triton.version == version_of(find_triton()) == TritonVersion(major, minor, patch)


def reached(server: TritonServer, address: str) -> Iterator[str]:
    """The services that answer at an address; 127.0.0.2 stands for one of this machine that others can reach."""
    for service in SERVICES:
        try:
            socket.create_connection((address, getattr(server.endpoints, service)), timeout=5).close()
        except ConnectionRefusedError:
            continue
        yield service


@pytest.mark.slow
def test_old_triton_is_for_this_machine_only(tiny_repository: Path) -> None:
    if below_floor(version_of(find_triton())) is None:
        pytest.skip("the Triton here may be open to other machines")
    endpoints = Endpoints(host="0.0.0.0", http=0, grpc=0, metrics=0)
    with TritonServer(tiny_repository, models=["tiny"], endpoints=endpoints) as server:
        assert list(reached(server, "127.0.0.1")) == list(SERVICES)
        assert list(reached(server, "127.0.0.2")) == []
        for url in (server.endpoints.grpc_url, server.endpoints.http_url):
            with Client(url, model="tiny") as client:
                assert len(client.predict(random_images(2))) == 2


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.slow
@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual tls"])
def test_triton_at_the_floor_listens_where_it_is_told(
    tiny_repository: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, mutual: bool
) -> None:
    """With TLS, also where the address that we ask ourselves is not on the certificate."""
    version = version_of(find_triton())
    assert version is not None
    monkeypatch.setattr(versions, "FLOOR", version)
    endpoints = behind_front(Endpoints(host="0.0.0.0", grpc=0), version)
    tls = ServerTls(certificates.server, certificates.server, certificates.ca if mutual else None)
    with TritonServer(tiny_repository, models=["tiny"], endpoints=endpoints, tls=tls) as server:
        assert list(reached(server, "127.0.0.1")) == list(SERVICES)
        assert list(reached(server, "127.0.0.2")) == ["grpc"]
        url = f"grpcs://localhost:{server.endpoints.grpc}"
        assert server.endpoints.grpc_url == url.replace("localhost", "127.0.0.1")
        with Client(url, model="tiny", tls=Tls(certificates.ca, certificates.client)) as client:
            assert len(client.predict(random_images(2))) == 2
        with closing(Connection(server.way, timeout=10)) as connection:
            connection.spec("tiny")
        with front_before(state_of_triton(server)) as front, Client(front.url, model="tiny") as client:
            assert len(client.predict(random_images(2))) == 2
        shown = [None, certificates.stranger] if mutual else []
        for stranger in shown:
            with (
                Client(url, model="tiny", tls=Tls(certificates.ca, stranger), timeout=10, retries=0) as client,
                pytest.raises(ServingError, match="grpcs://localhost"),
            ):
                client.predict(random_images(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"certificate": "missing.pem"}, r"--tls-cert missing\.pem: expected a certificate in PEM and, in --tls-key"),
        ({"key": "stranger"}, r"--tls-cert .*server\.pem: expected a certificate .* key values mismatch"),
        ({"client_ca": "missing.pem"}, r"--client-ca missing\.pem: expected certificates in PEM: .*No such file"),
        ({"client_ca": __file__}, r"--client-ca .*: expected certificates in PEM"),
    ],
)
def test_files_of_tls_are_checked(certificates: Certificates, change: dict[str, str], message: str) -> None:
    named = {name: Path(certificates.stranger if value == "stranger" else value) for name, value in change.items()}
    files = {"certificate": certificates.server, "key": certificates.server, "client_ca": certificates.ca, **named}
    with pytest.raises(ServingError, match=message):
        ServerTls(**files).check()


def test_a_certificate_without_names_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    nameless = ServerTls(certificates.stranger, certificates.stranger)
    with pytest.raises(ServingError, match=r"expected a certificate for names or addresses \(subjectAltName\)"):
        GrpcTls.prepared(nameless, tmp_path).access("grpcs://127.0.0.1:1")
