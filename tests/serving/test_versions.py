"""Which Triton it is, and what it may listen on: below the floor, on this machine only."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc
from tiny_model import random_images

from heatserve import FREE_PORTS, Client, Endpoints, ServingError, TritonServer
from heatserve.serving.triton.endpoints import SERVICES, behind_front
from heatserve.serving.triton.installation import Triton, find_triton
from heatserve.serving.triton.versions import FLOOR, FLOOR_CONTAINER, TritonVersion, below_floor, version_of

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


@pytest.mark.parametrize("guard", ["--token-file", "--rate"])
def test_with_tokens_or_a_rate_only_the_front_is_at_the_host(guard: str) -> None:
    """Triton knows neither: who has no token, or asks too often, would ask it directly."""
    wanted = Endpoints(host="0.0.0.0")
    hidden = behind_front(wanted, FLOOR, guard=guard)
    assert {hidden.address(service) for service in SERVICES} == {"127.0.0.1"}
    with pytest.raises(ServingError, match=f"--triton-http-port 8003: expected it without {guard}"):
        behind_front(wanted, FLOOR, triton_http=8003, guard=guard)
    assert behind_front(Endpoints(), FLOOR, triton_http=8003, guard=guard).http == 8003


def test_who_must_show_a_certificate_cannot_go_round_it_by_the_http_of_triton() -> None:
    wanted = Endpoints(host="0.0.0.0")
    assert behind_front(wanted, FLOOR, has_client_ca=True).address("grpc") == "0.0.0.0"
    with pytest.raises(ServingError, match="--triton-http-port 8003: expected it without --client-ca"):
        behind_front(wanted, FLOOR, triton_http=8003, has_client_ca=True)


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


@pytest.mark.slow
def test_an_environment_of_vertex_ai_opens_no_other_port(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, Triton would open an HTTP server for all machines, through which the closed APIs are reached."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in (("MODE", "PREDICTION"), ("HTTP_PORT", port), ("PREDICT_ROUTE", "/p"), ("HEALTH_ROUTE", "/h")):
        monkeypatch.setenv(f"AIP_{name}", value)
    with TritonServer(tiny_repository, models=["tiny"], endpoints=FREE_PORTS) as server:
        assert list(reached(server, "127.0.0.1")) == list(SERVICES)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)), timeout=5)


def test_the_page_on_security_names_each_hole_and_the_floor() -> None:
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    table = text[text.index("| part | CVE |") : text.index("So: give strangers")]
    named = re.findall(r"CVE-\d{4}-\d+", "".join(row.split("|")[2] for row in table.splitlines() if row))
    assert len(set(named)) == len(named)
    assert (
        f"name {len(named)} of them as fixed, up to container {FLOOR_CONTAINER} (Triton {FLOOR.major}.{FLOOR.minor})"
        in " ".join(text.split())
    )
    assert set(re.findall(r"CVE-\d{4}-\d+", text)) == set(named)
