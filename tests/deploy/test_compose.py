"""compose.yaml: files that exist, options that exist, and a server that may do nothing but compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from serve_options import check_serve

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def services() -> Mapping[str, Any]:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(compose) == {"name", "services", "networks", "volumes"}
    found: Mapping[str, Any] = compose["services"]
    assert set(found) == {"heatserve", "nginx", "prometheus"}
    return found


def _mounted(service: Mapping[str, Any]) -> Iterator[Path]:
    """What a service is given of the repository."""
    for volume in service["volumes"]:
        source, *_ = volume.split(":")
        if source.startswith("."):
            assert volume.endswith(":ro")
            yield DEPLOY / source


def test_what_is_mounted_and_built_exists(services: Mapping[str, Any]) -> None:
    for service in services.values():
        assert all(path.exists() for path in _mounted(service))
    build = services["heatserve"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_the_server_is_started_with_options_that_exist(services: Mapping[str, Any]) -> None:
    check_serve(services["heatserve"]["command"])


def test_every_service_may_do_nothing_but_compute(services: Mapping[str, Any]) -> None:
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_every_port_is_for_this_machine_only(services: Mapping[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert [port.rpartition(":")[2] for port in ports] == ["8000", "8443", "9090"]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_backends_of_triton_may_be_loaded_from_the_temporary_folder(services: Mapping[str, Any]) -> None:
    """Docker's own tmpfs does not allow that."""
    (temporary,) = services["heatserve"]["tmpfs"]
    path, _, options = temporary.partition(":")
    assert path == "/tmp"
    assert "exec" in options.split(",")


def test_prometheus_reads_the_page_of_the_server_and_nginx_is_beside_triton(services: Mapping[str, Any]) -> None:
    (targets,) = yaml.safe_load((DEPLOY / "compose" / "targets.yml").read_text())
    assert targets == {"targets": ["heatserve:8002"]}
    assert services["nginx"]["network_mode"] == "service:heatserve"
    assert services["prometheus"]["networks"] == services["heatserve"]["networks"]
    configuration = (DEPLOY / "nginx" / "nginx.conf").read_text()
    assert "listen 8443 " in configuration
