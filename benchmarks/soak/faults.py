"""Faults, done to a server that is asked all the time, and how long it takes until it answers again."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from heatserve.benchmarks.load.serve_command import ServeCommand, is_answered, serve_command
from heatserve.benchmarks.load.setting import ServedModels
from heatserve.benchmarks.records.soak import FaultRow
from heatserve.certification.errors import HeatserveError
from heatserve.serving.triton.processes import Process

_REQUEST_SECONDS = 2.0
_PAUSE_SECONDS = 0.02
_CALM_SECONDS = 2.0  # of good answers, after which it has recovered
_AT_MOST_SECONDS = 90.0
_FULL_SECONDS = 3.0
_SMALL_FILE = 4096  # bytes: a folder of a server needs larger ones

Fault = Callable[[ServeCommand, ServedModels], object]


def _signalling(kind: str, number: signal.Signals) -> Fault:
    return lambda server, served: os.kill(_one(server, kind.format(served.name)).pid, number)


def _crashing(server: ServeCommand, _: ServedModels) -> None:
    """Kill Triton, and have the next one crash while it starts."""
    former = _one(server, "triton")
    os.kill(former.pid, signal.SIGKILL)
    deadline = time.monotonic() + _AT_MOST_SECONDS
    while time.monotonic() < deadline:
        for process, kind in server.processes().items():
            if kind == "triton" and process != former:
                os.kill(process.pid, signal.SIGSEGV)
                return
        time.sleep(0.005)


def _filling(server: ServeCommand, _: ServedModels) -> None:
    """Kill Triton while the server can write no file of more than 4 KiB, and let it again after three seconds."""
    former = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (_SMALL_FILE, former[1]))
    try:
        os.kill(_one(server, "triton").pid, signal.SIGKILL)
        time.sleep(_FULL_SECONDS)
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, former)


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "a model's process is killed": _signalling("stub {}", signal.SIGKILL),
        "a model's process is stopped": _signalling("stub {}", signal.SIGSTOP),
        "Triton is killed": _signalling("triton", signal.SIGKILL),
        "Triton is stopped": _signalling("triton", signal.SIGSTOP),
        "Triton is killed, and the next one crashes at its start": _crashing,
        f"Triton is killed, and the disk is full for {_FULL_SECONDS:g} s": _filling,
        "the front is killed": _signalling("front", signal.SIGKILL),
        "the front is stopped": _signalling("front", signal.SIGSTOP),
    }
)
"""What is done, by its name."""


def measure_fault(what: str, served: ServedModels, *, times: int, backend_directory: Path | None = None) -> FaultRow:
    """Do one kind of fault several times to a `heatserve serve` of its own.

    Args:
        what: in `FAULTS`.
        served: what it serves.
        times: at most 4: a server that fails five times within a minute ends.
        backend_directory: Triton's backends, where they are not beside it.

    Raises:
        HeatserveError: it did not answer again.
    """
    found, failed = list[float](), 0
    with serve_command(served, backend_directory=backend_directory) as server, _asked(server, served) as heard:
        for _ in range(times):
            time.sleep(_CALM_SECONDS / 2)
            begin = time.perf_counter()
            FAULTS[what](server, served)
            seconds, bad = _recovery(what, heard, begin)
            found.append(seconds)
            failed += bad
    return FaultRow(what=what, seconds=tuple(found), failed=failed)


_Heard = dict[str, list[tuple[float, bool]]]
"""By URL: when an answer came, or was given up, and whether it was a good one."""


@contextmanager
def _asked(server: ServeCommand, served: ServedModels) -> Iterator[_Heard]:
    """A caller for each protocol, who asks again and again with new connections, in threads of its own."""
    ended = threading.Event()
    heard: _Heard = {url: [] for url in server.urls.values()}

    def ask(url: str) -> None:
        while not ended.wait(_PAUSE_SECONDS):
            good = is_answered(url, served, seconds=_REQUEST_SECONDS)
            heard[url].append((time.perf_counter(), good))

    threads = [threading.Thread(target=ask, args=(url,)) for url in heard]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _recovery(what: str, heard: _Heard, begin: float) -> tuple[float, int]:
    """Seconds from the fault until the first good answer after the last bad one, and how many were bad."""
    while True:
        time.sleep(_PAUSE_SECONDS)
        since = [[one for one in found if one[0] >= begin] for found in heard.values()]
        spans = [_good_at_the_end(found) for found in since]
        if all(last - first > _CALM_SECONDS for first, last in spans):
            bad = sum(not good for found in since for _, good in found)
            return (max(first for first, _ in spans) - begin if bad else 0.0), bad
        if time.perf_counter() - begin > _AT_MOST_SECONDS:
            raise HeatserveError(f"{what}: expected good answers again within {_AT_MOST_SECONDS:g} s, found none")


def _good_at_the_end(found: list[tuple[float, bool]]) -> tuple[float, float]:
    """When the first and the last good answer came after the last bad one; one that hangs is none yet."""
    moments = list[float]()
    for when, good in found:
        moments = [*moments[:1], when] if good else []
    return (moments[0], moments[-1]) if moments else (0.0, 0.0)


def _one(server: ServeCommand, kind: str) -> Process:
    with suppress(StopIteration):
        return next(process for process, found in server.processes().items() if found == kind)
    raise HeatserveError(f"expected a process {kind!r} of the server, found {sorted(server.processes().values())}")
