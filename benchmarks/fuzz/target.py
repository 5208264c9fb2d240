"""What is attacked: a server that is started here, or one that runs; and what its processes hold."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from heatserve.benchmarks.load.server_use import descriptors_of, look_at_server
from heatserve.benchmarks.records.fuzz import RoleUse
from heatserve.certification.errors import HeatserveError
from heatserve.serving.triton.processes import Process, triton_and_instances

_READY_SECONDS = 120
_END_SECONDS = 60
_ADDRESS = re.compile(r"^(gRPC|HTTP|metrics) +\w+://([^\s/]+)", re.MULTILINE)
LOCAL, STRANGER = "127.0.0.1", "127.0.0.2"
"""The addresses of who asks what is valid, and of who does not, towards a server of this machine."""

Address = tuple[str, int]


@dataclass(frozen=True)
class FuzzTarget:
    """Where a server answers."""

    http: Address | None = None
    grpc: Address | None = None
    metrics: Address | None = None
    parent: int | None = None
    """The process that started it, where that is known."""

    @property
    def stranger(self) -> str:
        """The address that hostile requests come from; nothing: any."""
        given = self.http or self.grpc
        return STRANGER if given and given[0] == LOCAL and sys.platform == "linux" else ""


def target_of(urls: Sequence[str]) -> FuzzTarget:
    """The server at `http://HOST:PORT`, `grpc://HOST:PORT`, or both.

    Raises:
        HeatserveError: another URL.
    """
    found: dict[str, Address] = {}
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "grpc") or not parts.hostname or not parts.port or parts.path.strip("/"):
            raise HeatserveError(f"--url: expected http://HOST:PORT or grpc://HOST:PORT, got {url!r}")
        found[parts.scheme] = (parts.hostname, parts.port)
    return FuzzTarget(http=found.get("http"), grpc=found.get("grpc"))


@contextmanager
def own_server(repository: Path, model: str) -> Iterator[FuzzTarget]:
    """`heatserve serve` of one model on free ports, ended by SIGINT.

    Raises:
        HeatserveError: it does not start.
    """
    words = [sys.executable, "-m", "heatserve", "serve", model, "--repository", str(repository)]
    words += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        with told.open("w") as output:
            process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield _ready(process, told)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(process: subprocess.Popen[bytes], told: Path) -> FuzzTarget:
    """Where it answers, as it prints it."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = {name: _address(text) for name, text in _ADDRESS.findall(told.read_text())}
        if len(found) == 3:
            return FuzzTarget(found["HTTP"], found["gRPC"], found["metrics"], process.pid)
        time.sleep(0.1)
    raise HeatserveError(f"the server: expected it to be ready, got: {told.read_text().strip()[-500:]}")


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


@dataclass(frozen=True)
class Use:
    """What the processes of a server hold at one moment."""

    roles: Mapping[Process, str]
    megabytes: Mapping[Process, float]
    files: Mapping[Process, int]


def use_of(parent: int) -> Use:
    """What a server holds: the process `parent` and all that descend from it."""
    itself, *_ = triton_and_instances(parent)
    roles = {itself: "heatserve serve", **look_at_server(parent, apart=set()).kinds}
    return Use(
        roles,
        {process: _own_megabytes(process.pid) for process in roles},
        {process: descriptors_of(process.pid) for process in roles},
    )


def compared(before: Use, after: Use) -> tuple[RoleUse, ...]:
    """What the processes of each role held, before and after."""
    names = sorted({*before.roles.values(), *after.roles.values()})

    def of(use: Use, name: str) -> list[Process]:
        return [process for process, role in use.roles.items() if role == name]

    return tuple(
        RoleUse(
            role=name,
            processes=len(of(after, name)),
            megabytes_before=sum(before.megabytes[process] for process in of(before, name)),
            megabytes_after=sum(after.megabytes[process] for process in of(after, name)),
            files_before=sum(before.files[process] for process in of(before, name)),
            files_after=sum(after.files[process] for process in of(after, name)),
        )
        for name in names
    )


def _own_megabytes(pid: int) -> float:
    """Anonymous memory, 10⁶ bytes; 0: it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon")), 0.0)
