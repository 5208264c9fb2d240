"""A `heatserve serve` under load for long: how much it is asked, what it holds meanwhile, and what it grows by."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from heatserve.benchmarks.load.helper import Helper
from heatserve.benchmarks.load.messages import LoadRequest
from heatserve.benchmarks.load.serve_command import ServeCommand, serve_command
from heatserve.benchmarks.load.setting import ServedModels, Setting
from heatserve.benchmarks.load.targets import target_at_most
from heatserve.benchmarks.load.windows import Load, LoadGenerator, Window, merged
from heatserve.benchmarks.records.load import LoadRow, LoadTarget
from heatserve.benchmarks.records.record import made_now
from heatserve.benchmarks.records.soak import FaultRow, SoakRecord, SoakSample
from heatserve.benchmarks.soak.faults import FAULTS, measure_fault
from heatserve.benchmarks.soak.looks import ALL, growth_of, sample_of
from heatserve.certification.progress import Progress, unseen
from heatserve.serving.triton.processes import Process

MOST_GROWTH = 0.02
"""By how much memory may grow, as a share."""
MOST_SECONDS = 5.0
"""From a fault until the next good answer."""
_SATURATION_SECONDS = 5.0
_WINDOW_SECONDS = 20.0
_SETTLE_SECONDS = 3.0  # for connections to be closed


@dataclass(frozen=True)
class SoakSettings:
    """For how long, and how."""

    minutes: float
    share: float
    times: int
    """How often each fault is done; 0: none."""
    radius: float = 0.125
    """What confirm is asked for."""
    seed: int = 0
    backend_directory: Path | None = None


def measure_soak(served: ServedModels, settings: SoakSettings, *, progress: Progress = unseen) -> SoakRecord:
    """Load a `heatserve serve`, look at it, and break others like it afterwards.

    Args:
        served: the model and its tiers.
        settings: for how long, and so on.
        progress: follows the windows, and the faults.

    Raises:
        HeatserveError: a server does not start, does not end in order, or does not answer again after a fault.
    """
    begun = made_now(seed=settings.seed)
    requests = served.mix(settings.radius)
    with ExitStack() as stack:
        helpers = [stack.enter_context(Helper()) for _ in requests]
        apart = frozenset(helper.pid for helper in helpers)
        server = stack.enter_context(serve_command(served, backend_directory=settings.backend_directory))
        generator = LoadGenerator(helpers, Setting(served, server.urls, apart), seed=settings.seed)
        found = _Soak(server, generator, settings, progress).run(requests)
    faults = tuple(_faults(served, settings, progress))
    return SoakRecord(
        **vars(begun),
        model=served.name,
        architecture=served.architecture,
        data=served.data,
        minutes=settings.minutes,
        share=settings.share,
        heard=found.row.heard,
        cores={kind: use.cores for kind, use in found.row.server.items()},
        idle=found.idle,
        samples=found.samples,
        growth=found.growth,
        replaced=found.replaced,
        faults=faults,
        targets=tuple(_targets(found, faults)),
    )


@dataclass(frozen=True)
class _Found:
    row: LoadRow
    idle: tuple[SoakSample, SoakSample]
    samples: tuple[SoakSample, ...]
    replaced: int

    @property
    def growth(self) -> dict[str, float]:
        return growth_of(self.samples)


@dataclass(frozen=True)
class _Soak:
    server: ServeCommand
    generator: LoadGenerator
    settings: SoakSettings
    progress: Progress

    def run(self, requests: Sequence[LoadRequest]) -> _Found:
        """The saturation of the mix, its share for the time, and looks before, between and after."""
        seconds = min(_SATURATION_SECONDS, 15.0 * self.settings.minutes)
        load = self.generator.at_share(requests, self.settings.share, seconds=seconds)
        time.sleep(_SETTLE_SECONDS)
        before, processes = sample_of(self.server, minute=0.0), set(self.server.processes())
        windows, samples = list[Window](), list[SoakSample]()
        for window, sample in self._windows(load):
            windows.append(window)
            samples.append(sample)
        time.sleep(_SETTLE_SECONDS)
        after = sample_of(self.server, minute=self.settings.minutes)
        replaced = len(processes - _alive(self.server))
        return _Found(merged(windows), (before, after), tuple(samples), replaced)

    def _windows(self, load: Load) -> Iterator[tuple[Window, SoakSample]]:
        seconds = min(_WINDOW_SECONDS, 15.0 * self.settings.minutes)  # four at least, for the quarters
        count = max(4, round(60.0 * self.settings.minutes / seconds))
        begin = time.monotonic()
        for _ in self.progress(range(count), count, f"{self.settings.share:.0%} load"):
            window = self.generator.window(load, seconds)
            yield window, sample_of(self.server, minute=(time.monotonic() - begin) / 60.0)


def _alive(server: ServeCommand) -> set[Process]:
    return set(server.processes())


def _faults(served: ServedModels, settings: SoakSettings, progress: Progress) -> Iterator[FaultRow]:
    if settings.times:
        for what in progress(FAULTS, len(FAULTS), "faults"):
            yield measure_fault(what, served, times=settings.times, backend_directory=settings.backend_directory)


def _targets(found: _Found, faults: Sequence[FaultRow]) -> Iterator[LoadTarget]:
    before, after = found.idle
    yield target_at_most("memory of all processes grows by, as a share", found.growth[ALL], MOST_GROWTH)
    yield target_at_most("descriptors more after the load than before", after.files[ALL] - before.files[ALL], 0)
    yield target_at_most("processes more after the load than before", after.processes[ALL] - before.processes[ALL], 0)
    yield target_at_most("processes started again during the load", found.replaced, 0)
    yield target_at_most("requests without an answer", sum(sum(one.errors.values()) for one in found.row.heard), 0)
    for row in faults:
        yield target_at_most(f"{row.what}: seconds until the next good answer", max(row.seconds), MOST_SECONDS)
