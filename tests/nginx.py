"""A real nginx with the configuration in deploy/nginx/, in front of a server of the tests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from programs import program
from relays import Certificates

ROOT = Path(__file__).parents[1]
TOKEN = "6c9cbf3f0f4a4f0f8d0b1f3c5e7a9b2d4f6081a3c5e7092b4d6f8a1c3e507294"
CALLER = "team-a"
_SECONDS = 60.0


@dataclass(frozen=True)
class Nginx:
    """A running nginx: the port of its one server, its files, and the process."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """For clients of ours."""
        return f"grpcs://localhost:{self.port}"

    def requests(self) -> list[dict[str, Any]]:
        """What it wrote of each request."""
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]

    def next_request(self, known: int) -> dict[str, Any]:
        """What it writes of the request after as many; that may come after the answer."""
        deadline = time.monotonic() + _SECONDS
        while len(self.requests()) <= known and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.requests()[known]


@contextmanager
def nginx_before(
    upstream: int, certificates: Certificates, folder: Path, *, change: dict[str, str] | None = None
) -> Iterator[Nginx]:
    """Run it in a folder of its own.

    Args:
        upstream: the port of gRPC on this machine that it hands requests to.
        certificates: of the server, and of the CA of its clients.
        folder: an empty folder for all that it reads and writes.
        change: words of the configuration by those to have in their place.
    """
    binary = program("nginx")
    shutil.copytree(ROOT / "deploy" / "nginx", folder, dirs_exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = folder / "nginx.conf"
    text = configuration.read_text()
    here = {
        "/tmp/": f"{folder}/",
        "/dev/stdout": f"{folder}/access.log",
        "/dev/stderr": f"{folder}/error.log",
        "listen 8443": f"listen 127.0.0.1:{port}",
        "127.0.0.1:8001": f"127.0.0.1:{upstream}",
        "worker_processes 2": "worker_processes 1",
    }
    for old, new in {**here, **(change or {})}.items():
        assert old in text, old
        text = text.replace(old, new)
    configuration.write_text(text)
    (folder / "tls").mkdir()
    for name, source in (
        ("server.pem", certificates.server),
        ("server.key", certificates.server),
        ("clients.pem", certificates.ca),
    ):
        shutil.copy(source, folder / "tls" / name)
    (folder / "tokens.map").write_text(f'"Bearer {TOKEN}" {CALLER};\n')
    command = [binary, "-p", str(folder), "-c", str(configuration), "-g", "daemon off;"]
    with subprocess.Popen(command, env={"PATH": os.defpath}, stderr=subprocess.PIPE) as process:
        try:
            _wait_until_it_listens(process, port)
            yield Nginx(port, folder, process)
        finally:
            process.terminate()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read().decode())
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nginx does not listen on {port}")
