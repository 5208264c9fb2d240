"""The Dockerfiles: what they copy exists and is sent, what they run is taken, and the health check tells the truth."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from relays import Relay, host_and_port, make_certificates
from serve_options import check_serve
from setuptools.config.pyprojecttoml import load_file
from wheels import ROOMS

from heatserve import TritonServer
from heatserve.serving.triton.versions import FLOOR_CONTAINER

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
FILES = sorted(DOCKER.glob("Dockerfile.*"))
IS_READY = DOCKER / "is_ready.py"


def _instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile and what stands behind it, lines joined and comments left out."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    found = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in found if line)]


def _of(path: Path, name: str) -> list[str]:
    return [rest for found, rest in _instructions(path) if found == name]


def _is_sent(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path of the repository is in the build context, by the lines of .dockerignore: the last that fits."""
    folders = ["/".join(path.split("/")[: depth + 1]) for depth in range(path.count("/") + 1)]
    sent = True
    for pattern in patterns:
        name = pattern.removeprefix("!").replace("**/", "*")
        if any(fnmatch.fnmatch(folder, name) for folder in folders):
            sent = pattern.startswith("!")
    return sent


@pytest.fixture(scope="module")
def ignored() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_all_that_is_installed_is_sent_and_no_more(ignored: list[str]) -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    sent = {path for path in listed.stdout.split() if _is_sent(path, ignored)}
    rooms = [path for path in listed.stdout.split() if path.split("/")[0] in (*ROOMS, "heatserve")]
    assert {path for path in rooms if not path.startswith("benchmarks/results/")} <= sent
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "heatserve/serving"} <= sent
    assert {path.split("/")[0] for path in sent} & {"model_repository", "tests", "docs", ".git", "runs"} == set()
    assert not any(path.startswith("benchmarks/results/") for path in sent)


def test_no_key_or_token_of_nginx_is_sent(ignored: list[str]) -> None:
    """They would stay in a layer of the stage that builds, as in the guide: `docker compose up --build`."""
    secrets = ("deploy/nginx/tokens.map", "deploy/nginx/tls/server.key", "deploy/prometheus/token")
    assert [path for path in secrets if _is_sent(path, ignored)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_is_sent(path: Path, ignored: list[str]) -> None:
    sources = [rest.split()[0] for rest in _of(path, "COPY") if not rest.startswith("--from=")]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert source == "." or _is_sent(source, ignored)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_server_is_started_with_options_that_exist(path: Path) -> None:
    (entry,), (command,) = _of(path, "ENTRYPOINT"), _of(path, "CMD")
    start = json.loads(entry)
    assert start[:4] == ["tini", "--", "heatserve", "serve"]
    check_serve([*start[4:], *json.loads(command)])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_runs_as_nobody_who_has_rights(path: Path) -> None:
    """The user is a number, since Kubernetes cannot see whether a name is root's; the charts name the same one."""
    assert _of(path, "USER") == ["10001:10001"]
    assert any("useradd --uid 10001" in rest for rest in _of(path, "RUN"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_installed_is_an_extra(path: Path) -> None:
    extras = load_file(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    named = re.findall(r"'\.\[(\w+)\]'", " ".join(_of(path, "RUN")))
    assert named
    assert set(named) <= set(extras)


def test_the_container_of_triton_is_not_below_the_floor() -> None:
    (base,) = _of(DOCKER / "Dockerfile.triton", "ARG")
    (release,) = re.findall(r":(\d+\.\d+)-py3$", base)
    assert tuple(map(int, release.split("."))) >= tuple(map(int, FLOOR_CONTAINER.split(".")))


def test_its_python_is_not_given_a_second_triton() -> None:
    """`container` is `serve` without the wheel of Triton, and without the bound on numpy that it needs."""
    extras = load_file(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    assert "heatserve[container]" in extras["serve"]
    added = [re.split(r"[<=>; ]", requirement)[0] for requirement in extras["serve"]]
    assert sorted(added) == ["heatserve[container]", "numpy", "nvidia-pytriton"]


def _asked(address: str) -> int:
    return subprocess.run([sys.executable, "-I", str(IS_READY), address], capture_output=True, check=False).returncode


def test_the_health_check_is_what_a_server_says(triton: TritonServer) -> None:
    host, port = host_and_port(triton.endpoints.http_url)
    assert _asked(f"{host}:{port}") == 0


def test_the_health_check_asks_over_tls_too(triton: TritonServer, tmp_path: Path) -> None:
    tls = make_certificates(tmp_path).server_context()
    with Relay(host_and_port(triton.endpoints.http_url), tls=tls) as relay:
        assert _asked(relay.address) == 0


def test_the_health_check_fails_where_nobody_answers() -> None:
    with Relay(("127.0.0.1", 1)) as relay:  # it ends each connection, since nobody is behind it
        assert _asked(relay.address) == 1
