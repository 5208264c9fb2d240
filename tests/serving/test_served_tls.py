"""TLS of Triton's own gRPC where other machines reach it, and of the front before it, by one set of files."""

from __future__ import annotations

import socket
import sys
from contextlib import closing
from pathlib import Path

import pytest
from relays import Certificates, make_certificates
from tiny_model import random_images

from heatserve import Client, Endpoints, ServingError, Tls, TritonServer
from heatserve.serving.client.connection import Connection
from heatserve.serving.front.options import FrontOptions
from heatserve.serving.supervised.server import Server
from heatserve.serving.triton import versions
from heatserve.serving.triton.endpoints import SERVICES, Service, behind_front
from heatserve.serving.triton.installation import find_triton
from heatserve.serving.triton.tls import GrpcTls, ServerTls

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")

EVERYWHERE = Endpoints(host="0.0.0.0", http=0, grpc=0, metrics=0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def at_the_floor(monkeypatch: pytest.MonkeyPatch) -> versions.TritonVersion:
    """As though the Triton here were new enough to listen beyond this machine."""
    version = versions.version_of(find_triton())
    assert version is not None
    monkeypatch.setattr(versions, "FLOOR", version)
    return version


def reached(endpoints: Endpoints, address: str) -> list[Service]:
    """The services that answer at an address; 127.0.0.2 stands for one of this machine that others can reach."""
    return [service for service in SERVICES if _connects(address, getattr(endpoints, service))]


def _connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.slow
def test_triton_at_the_floor_listens_where_it_is_told(
    tiny_repository: Path, certificates: Certificates, at_the_floor: versions.TritonVersion
) -> None:
    """With TLS, also where the address that we ask ourselves is not on the certificate."""
    tls = ServerTls(certificates.server, certificates.server)
    endpoints = behind_front(EVERYWHERE, at_the_floor)
    with TritonServer(tiny_repository, models=["tiny"], endpoints=endpoints, tls=tls) as server:
        assert reached(server.endpoints, "127.0.0.1") == list(SERVICES)
        assert reached(server.endpoints, "127.0.0.2") == ["grpc"]
        assert server.endpoints.grpc_url == f"grpcs://127.0.0.1:{server.endpoints.grpc}"
        with Client(f"grpcs://localhost:{server.endpoints.grpc}", model="tiny", tls=Tls(certificates.ca)) as client:
            assert len(client.predict(random_images(2))) == 2
        with closing(Connection(server.way, timeout=10)) as connection:
            connection.spec("tiny")


@pytest.mark.slow
@pytest.mark.usefixtures("at_the_floor")
def test_one_set_of_files_is_for_http_and_grpc(tiny_repository: Path, certificates: Certificates) -> None:
    """With mutual TLS: the front gets in, callers with a certificate do, and others do not."""
    options = FrontOptions(tls_cert=certificates.server, tls_key=certificates.server, client_ca=certificates.ca)
    with Server(tiny_repository, models=["tiny"], endpoints=EVERYWHERE, front=options) as server:
        assert reached(server.endpoints, "127.0.0.2") == list(SERVICES)
        assert reached(server.triton.endpoints, "127.0.0.2") == ["grpc"]
        assert server.endpoints.metrics_url.startswith("https://")
        for url in (server.endpoints.grpc_url, server.endpoints.http_url):
            assert url.split("://")[0] in ("grpcs", "https")
            with Client(url, model="tiny", tls=Tls(certificates.ca, certificates.client)) as client:
                assert len(client.predict(random_images(2))) == 2
            for shown in (None, certificates.stranger):
                with (
                    Client(url, model="tiny", tls=Tls(certificates.ca, shown), timeout=10, retries=0) as client,
                    pytest.raises(ServingError),
                ):
                    client.predict(random_images(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"certificate": "missing.pem"}, r"--tls-cert missing\.pem: expected a certificate in PEM and, in --tls-key"),
        ({"key": "stranger"}, r"--tls-cert .*server\.pem: expected a certificate .* key values mismatch"),
        ({"client_ca": "missing.pem"}, r"--client-ca missing\.pem: expected certificates in PEM, found: No such file"),
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
