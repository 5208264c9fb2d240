"""All that `bench load` measures of one model, in one run on one server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from heatserve.benchmarks.load.floors import RAW_BATCHES, raw_milliseconds, raw_row
from heatserve.benchmarks.load.helper import Helper
from heatserve.benchmarks.load.messages import LoadRequest
from heatserve.benchmarks.load.setting import ServedModels, Setting, running
from heatserve.benchmarks.load.targets import ALONE, BESIDE_CONFIRM, BUSY, saturation, targets_of
from heatserve.benchmarks.load.third_party import ThirdPartyRun, run_third_party
from heatserve.benchmarks.load.windows import Load, LoadGenerator, LoadPart, Window, merged
from heatserve.benchmarks.records.load import LoadRow, ModelLoad, Protocol, RawRow, ThirdPartyRow
from heatserve.certification.progress import Progress, unseen
from heatserve.export.tiers import TierModel

CALLERS = (1, 2, 4, 8, 16, 32)
"""Requests on the way at once, in the closed loop."""
SHARES = (0.3, 0.5, BUSY, 0.9)
"""Rates of the open loop, as shares of the measured saturation."""
SEVERAL = 8
"""Images of a request, where it has several."""
_ROUNDS = 3
"""What is compared takes turns so many times, each with a part of the seconds."""
_FLOOD = 4
"""Callers of votes beside a single pass."""
_MANY = 8
"""Callers that saturate the votes; those of another generator."""
_PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")


@dataclass(frozen=True)
class LoadSettings:
    """How a model is measured."""

    seconds: float
    """The length of each window."""
    generators: int
    """Processes that ask, at least 2."""
    radius: float = 0.125
    """What confirm and cascade are asked for."""
    third_party: tuple[str, ...] = ()
    """Other generators to run: `wrk`, `hey`."""
    seed: int = 0
    backend_directory: Path | None = None


def measure_load(served: ServedModels, settings: LoadSettings, *, progress: Progress = unseen) -> ModelLoad:
    """Start a server, load it in every way, and compute what was reached.

    Args:
        served: the model and what stands beside it.
        settings: for how long, by how many processes, and so on.
        progress: follows the windows of each stage.

    Raises:
        ServingError: the server does not start, or refuses the first request.
        HeatserveError: a process that asks ended, or another generator failed.
    """
    with ExitStack() as stack:
        helpers = [stack.enter_context(Helper()) for _ in range(settings.generators)]
        without_server = stack.enter_context(Helper())
        setting = stack.enter_context(running(served, settings.backend_directory))
        generator = LoadGenerator(helpers, setting, seed=settings.seed)
        return _Run(settings, setting, generator, without_server, progress).all()


@dataclass(frozen=True)
class _Run:
    settings: LoadSettings
    setting: Setting
    generator: LoadGenerator
    without_server: Helper
    progress: Progress

    def all(self) -> ModelLoad:
        """Each stage in turn."""
        served, kind = self.setting.served, self.setting.served.one_pass("grpc").kind
        raw = tuple(self._raw())
        raw_single, single = self._one_caller()
        closed = (*single, *self._callers())
        opened = tuple(self._arrivals(closed))
        mixes = self._mixes()
        third_party = tuple(self._third_party())
        targets = targets_of(
            architecture=served.architecture,
            kind=kind,
            raw=raw,
            raw_single=raw_single,
            closed=closed,
            opened=opened,
            mixes=mixes,
            third_party=third_party,
        )
        return ModelLoad(
            weights=served.weights,
            architecture=served.architecture,
            input=served.input,
            input_shape=served.input_shape,
            data=served.data,
            radius=self.settings.radius if mixes else None,
            raw=raw,
            raw_single=raw_single,
            closed=closed,
            opened=opened,
            mixes=mixes,
            third_party=third_party,
            targets=targets,
        )

    def _requests(self) -> list[LoadRequest]:
        """The kinds that are asked in a closed loop."""
        served = self.setting.served
        others = [kind for kind in served.models if kind != served.input]
        return [
            *map(served.one_pass, _PROTOCOLS),
            *(served.one_pass("grpc", input_type=kind) for kind in others),
            served.one_pass("grpc", count=SEVERAL),
            served.identity("grpc"),
        ]

    def _raw(self) -> Iterator[RawRow]:
        for batch in self.progress(RAW_BATCHES, len(RAW_BATCHES), f"{self.setting.served.name}, no server"):
            yield raw_row(batch, self._without_server(batch, self.settings.seconds / _ROUNDS))

    def _without_server(self, batch: int, seconds: float) -> list[float]:
        served = self.setting.served
        images = served.pixels(served.input)[:batch]
        return self.without_server.start(raw_milliseconds, served.graph, images, seconds)()

    def _one_caller(self) -> tuple[RawRow, list[LoadRow]]:
        """One caller of each kind, in turn with ONNX Runtime on one image."""
        loads: list[Load] = [(LoadPart(request, callers=1),) for request in self._requests()]
        seconds = self.settings.seconds / _ROUNDS
        raw: list[float] = []

        def without_server() -> None:
            raw.extend(self._without_server(1, seconds))

        rows = self._in_turn(loads, "one caller", before=without_server)
        return raw_row(1, raw), rows

    def _in_turn(self, loads: Sequence[Load], what: str, before: Callable[[], None] | None = None) -> list[LoadRow]:
        """A row for each load, from windows that take turns; `before` is called before each turn."""
        windows: list[list[Window]] = [[] for _ in loads]
        turns = [(turn, index) for turn in range(_ROUNDS) for index in range(len(loads))]
        for _, index in self._followed(turns, what):
            if index == 0 and before:
                before()
            windows[index].append(self.generator.window(loads[index], self.settings.seconds / _ROUNDS))
        return [merged(found) for found in windows]

    def _followed(self, items: Sequence[tuple[int, int]], what: str) -> Iterator[tuple[int, int]]:
        yield from self.progress(items, len(items), f"{self.setting.served.name}, {what}")

    def _callers(self) -> Iterator[LoadRow]:
        loads: list[Load] = [
            (LoadPart(request, callers=callers),) for callers in CALLERS[1:] for request in self._requests()
        ]
        yield from self._rows(loads, "callers")

    def _arrivals(self, closed: Sequence[LoadRow]) -> Iterator[LoadRow]:
        requests = [self.setting.served.one_pass(protocol) for protocol in _PROTOCOLS]
        most = [saturation(closed, request.kind) for request in requests]
        loads: list[Load] = [
            (LoadPart(request, rate=share * best),)
            for share in SHARES
            for request, best in zip(requests, most, strict=True)
        ]
        yield from self._rows(loads, "arrivals")

    def _rows(self, loads: Sequence[Load], what: str) -> Iterator[LoadRow]:
        for load in self.progress(loads, len(loads), f"{self.setting.served.name}, {what}"):
            yield self.generator.row(load, self.settings.seconds)

    def _mixes(self) -> Mapping[str, LoadRow]:
        served, radius = self.setting.served, self.settings.radius
        one_pass = LoadPart(served.one_pass("grpc"), callers=1)
        mixes: dict[str, Load] = {ALONE: (one_pass,)}
        for tier in (TierModel.CONFIRM, TierModel.CASCADE):
            if tier in served.tiers:
                request = served.tier(tier, "grpc", radius)
                beside = BESIDE_CONFIRM if tier is TierModel.CONFIRM else f"one pass beside {tier.value}"
                mixes[f"{tier.value}, 1 caller"] = (LoadPart(request, callers=1),)
                mixes[f"{tier.value}, {_MANY} callers"] = (LoadPart(request, callers=_MANY),)
                mixes[beside] = (one_pass, LoadPart(request, callers=_FLOOD))
        if len(mixes) == 1:
            return {}
        return dict(zip(mixes, self._in_turn([*mixes.values()], "mixes"), strict=True))

    def _third_party(self) -> Iterator[ThirdPartyRow]:
        request = self.setting.served.one_pass("http")
        url, seconds = self.setting.urls["http"], self.settings.seconds
        for name in self.settings.third_party:
            runs: list[ThirdPartyRun] = []

            def theirs(name: str = name, runs: list[ThirdPartyRun] = runs) -> None:
                runs.append(run_third_party(name, request.first_http(), url, callers=_MANY, seconds=seconds / _ROUNDS))

            (ours,) = self._in_turn([(LoadPart(request, callers=_MANY),)], name, before=theirs)
            yield ThirdPartyRow(
                name=name,
                version=runs[0].version,
                command=runs[0].command,
                callers=_MANY,
                requests_per_second=sum(run.requests_per_second for run in runs) / len(runs),
                ours=ours.heard[0],
            )
