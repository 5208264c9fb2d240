"""`heatserve serve` in a process of its own, as an operator runs it: started, asked, looked at and ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from heatserve.benchmarks.load.server_use import look_at_server
from heatserve.benchmarks.load.setting import ServedModels
from heatserve.benchmarks.records.load import Protocol
from heatserve.certification.errors import HeatserveError
from heatserve.serving.client.client import Client
from heatserve.serving.errors import ServingError
from heatserve.serving.triton import guarded_exec
from heatserve.serving.triton.endpoints import FREE_PORTS
from heatserve.serving.triton.processes import Process, process_of

SUPERVISOR = "supervisor"
"""The kind of the process that is `heatserve serve` itself."""
_START_SECONDS = 120.0
_END_SECONDS = 60.0
_LAST_WORDS = 2000  # characters of what it said on stderr


@dataclass(frozen=True)
class ServeCommand:
    """A running `heatserve serve`."""

    pid: int
    urls: Mapping[Protocol, str]
    folder: Path
    """Its temporary folder: it is told of no other one."""

    def processes(self) -> dict[Process, str]:
        """Its processes with their kinds: it itself, and all that it started."""
        return {process_of(self.pid): SUPERVISOR, **look_at_server(self.pid, apart=frozenset()).kinds}


@contextmanager
def serve_command(served: ServedModels, *options: str, backend_directory: Path | None = None) -> Iterator[ServeCommand]:
    """Run `heatserve serve` on a model and its tiers, until each protocol has answered once; end it by SIGTERM.

    Raises:
        HeatserveError: it did not begin to answer, or did not end in order. Says what it said.
    """
    ports = FREE_PORTS.bound()
    words = ["serve", served.models[served.input], "--repository", str(served.repository), *options]
    words += [f"--{name}-port={getattr(ports, name)}" for name in ("http", "grpc", "metrics")]
    if backend_directory:
        words.append(f"--backend-directory={backend_directory}")
    folder = Path(tempfile.mkdtemp(prefix="heatserve-soak-"))
    try:
        with tempfile.TemporaryFile() as said:
            guard = [sys.executable, "-IS", guarded_exec.__file__, str(os.getpid()), str(int(signal.SIGTERM)), "0"]
            process = subprocess.Popen(
                [*guard, sys.executable, "-m", "heatserve", *words],
                env={**os.environ, "TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            urls: dict[Protocol, str] = {"grpc": ports.grpc_url, "http": ports.http_url}
            try:
                _wait_until_it_answers(process, served, urls)
                yield ServeCommand(process.pid, urls, folder)
                _end(process)
            except ServingError as error:
                said.seek(0)
                words_said = said.read().decode(errors="replace")[-_LAST_WORDS:]
                raise HeatserveError(f"heatserve {' '.join(words)}: {error}; it said: {words_said}") from None
            finally:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(
    process: subprocess.Popen[bytes], served: ServedModels, urls: Mapping[Protocol, str]
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    left = set(urls.values())
    while left:
        if process.poll() is not None:
            raise ServingError(f"expected it to serve, found that it ended with exit code {process.returncode}")
        for url in [*left]:
            if is_answered(url, served):
                left.remove(url)
        if time.monotonic() > deadline:
            raise ServingError(f"expected it to answer within {_START_SECONDS:g} s, found that it did not")
        time.sleep(0.05)


def is_answered(url: str, served: ServedModels, *, seconds: float = 5.0) -> bool:
    """Whether one image gets an answer that our client accepts, at the first attempt."""
    with Client(url, model=served.models[served.input], timeout=seconds, retries=0) as client:
        try:
            return len(client.predict(served.pixels(served.input)[:1])) == 1
        except ServingError:
            return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        code = process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        raise ServingError(f"expected it to end within {_END_SECONDS:g} s of SIGTERM, found that it did not") from None
    if code:
        raise ServingError(f"expected it to end in order at SIGTERM, found exit code {code}")
