"""One load for some seconds: who asks what, what they heard, and what the server took meanwhile."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from heatserve.benchmarks.load.asking import Overheard, Stream, arrivals_at, ask_stream
from heatserve.benchmarks.load.floors import tail_of
from heatserve.benchmarks.load.helper import Helper
from heatserve.benchmarks.load.messages import LoadRequest
from heatserve.benchmarks.load.server_use import look_at_server, use_between
from heatserve.benchmarks.load.setting import Setting
from heatserve.benchmarks.records.load import Heard, LoadRow, ProcessUse

WARM_UP = 0.4
"""Seconds of the same load before a window."""
_CALLERS = 4  # of each kind of request, to find what a mix reaches
_LEAST_RATE = 0.5  # requests a second of each kind


@dataclass(frozen=True)
class LoadPart:
    """A kind of request, and how much of it: so many callers (closed loop), or a rate (open loop)."""

    request: LoadRequest
    callers: int | None = None
    rate: float | None = None
    """Requests a second."""


Load = tuple[LoadPart, ...]
"""What is asked at the same time."""


class LoadGenerator:
    """Processes that ask a server; windows of load on it."""

    def __init__(self, helpers: Sequence[Helper], setting: Setting, *, seed: int) -> None:
        """Use some processes.

        Args:
            helpers: one for each of the askers.
            setting: whom they ask.
            seed: decides the moments of arrivals.
        """
        self._helpers = helpers
        self._setting = setting
        self._random = np.random.default_rng(seed)

    def row(self, load: Load, seconds: float) -> LoadRow:
        """One window.

        Args:
            load: one kind of request, which all processes share, or several, of which each has a process of its own.
            seconds: the window's length, after the warm-up.
        """
        return merged([self.window(load, seconds)])

    def window(self, load: Load, seconds: float) -> Window:
        """One window, not summed up yet."""
        streams = [(asked, stream) for asked in load for stream in self._streams(asked, len(load), seconds)]
        begin = time.perf_counter() + WARM_UP
        waits: list[tuple[LoadPart, Callable[[], Overheard]]] = [
            (asked, helper.start(ask_stream, stream, begin, seconds))
            for helper, (asked, stream) in zip(self._helpers, streams, strict=False)
        ]
        _sleep_until(begin)
        before = look_at_server(os.getpid(), apart=self._setting.apart)
        _sleep_until(begin + seconds)
        after = look_at_server(os.getpid(), apart=self._setting.apart)
        use = use_between(before, after, seconds=seconds)
        heard = defaultdict[int, list[Overheard]](list)
        for asked, wait in waits:
            heard[load.index(asked)].append(wait())
        return Window(load, seconds, tuple(tuple(heard[index]) for index in range(len(load))), use)

    def at_share(self, requests: Sequence[LoadRequest], share: float, *, seconds: float) -> Load:
        """Arrivals of a mix of requests at a share of the rates at which callers who wait are answered.

        Args:
            requests: of which each has a process of its own.
            share: of what is reached.
            seconds: for which that is measured.
        """
        reached = self.row(tuple(LoadPart(request, callers=_CALLERS) for request in requests), seconds)
        return tuple(
            LoadPart(request, rate=max(share * heard.images_per_second / request.count, _LEAST_RATE))
            for request, heard in zip(requests, reached.heard, strict=True)
        )

    def _streams(self, asked: LoadPart, kinds: int, seconds: float) -> list[Stream]:
        url = self._setting.urls[asked.request.protocol]
        messages = asked.request.messages(url)
        processes = len(self._helpers) if kinds == 1 else 1
        if asked.callers is not None:
            return [
                Stream(url, messages[part:] + messages[:part], callers=len(range(part, asked.callers, processes)))
                for part in range(min(processes, asked.callers))
            ]
        assert asked.rate is not None
        moments = arrivals_at(asked.rate, begin=-WARM_UP, end=seconds, random=self._random)
        owners = self._random.integers(0, processes, len(moments))
        return [Stream(url, messages, arrivals=moments[owners == part]) for part in range(processes)]


@dataclass(frozen=True)
class Window:
    """What was heard in one window, of each part of its load by each process that asked."""

    load: Load
    seconds: float
    heard: tuple[tuple[Overheard, ...], ...]
    server: dict[str, ProcessUse]


def merged(windows: Sequence[Window]) -> LoadRow:
    """Windows of the same load as one row."""
    seconds = sum(window.seconds for window in windows)
    parts = windows[0].load
    cores = sum(max(_cores(window)) for window in windows) / len(windows)
    kinds = {kind: use for window in windows for kind, use in window.server.items()}
    server = {
        kind: replace(last, cores=sum(_cores_of(window, kind) * window.seconds for window in windows) / seconds)
        for kind, last in kinds.items()
    }
    heard = [
        _heard(parts[index], [one for window in windows for one in window.heard[index]], seconds)
        for index in range(len(parts))
    ]
    return LoadRow(seconds=seconds, heard=tuple(heard), generator_cores=cores, server=server)


def _cores(window: Window) -> list[float]:
    return [one.cores for part in window.heard for one in part]


def _cores_of(window: Window, kind: str) -> float:
    return window.server[kind].cores if kind in window.server else 0.0


def _heard(asked: LoadPart, found: Sequence[Overheard], seconds: float) -> Heard:
    milliseconds = 1000 * np.concatenate([one.latencies for one in found])
    late = 1000 * np.concatenate([one.sent - one.intended for one in found])
    errors: Counter[str] = Counter()
    for one in found:
        errors.update(one.errors)
    return Heard(
        **asdict(asked.request.kind),
        callers=asked.callers,
        rate=asked.rate,
        answers=len(milliseconds),
        images_per_second=asked.request.count * sum(one.within for one in found) / seconds,
        milliseconds=tail_of(milliseconds.tolist()) if len(milliseconds) else None,
        late_p99=float(np.percentile(late, 99)) if len(late) else 0.0,
        errors=dict(errors),
    )


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))
