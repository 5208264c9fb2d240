"""A `heatserve serve` under load, and commands that switch it: what callers hear meanwhile, and how long it takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path
from types import MappingProxyType

from heatserve.benchmarks.load.helper import Helper
from heatserve.benchmarks.load.serve_command import ServeCommand, serve_command
from heatserve.benchmarks.load.setting import ServedModels, Setting
from heatserve.benchmarks.load.targets import target_at_most
from heatserve.benchmarks.load.windows import Load, LoadGenerator, Window, merged
from heatserve.benchmarks.records.load import Heard, LoadTarget
from heatserve.benchmarks.records.record import made_now
from heatserve.benchmarks.records.switching import KeptOut, SwitchingRecord, SwitchRow
from heatserve.certification.errors import HeatserveError
from heatserve.certification.progress import Progress, unseen
from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME
from heatserve.export.repository.layout import open_model
from heatserve.export.repository.publishing import republish

_SATURATION_SECONDS = 5.0
_WINDOW_SECONDS = 10.0
_CALM_WINDOWS = 3
_COMMAND_SECONDS = 600.0


@dataclass(frozen=True)
class SwitchSettings:
    """How often, and under what load."""

    switches: int
    """Switches and rollbacks, in turn."""
    share: float
    radius: float = 0.125
    """What confirm is asked for."""
    seed: int = 0


def measure_switching(
    served: ServedModels, settings: SwitchSettings, *, progress: Progress = unseen
) -> SwitchingRecord:
    """Switch a `heatserve serve` under load from one version to another and back, then to versions with a fault.

    Args:
        served: the model and its tiers; its folder gets more versions.
        settings: how often, and so on.
        progress: follows the commands.

    Raises:
        HeatserveError: a server does not start, or a command fails that should not.
    """
    begun = made_now(seed=settings.seed)
    first = open_model(served.repository, served.name)
    second = republish(first, served.repository, served.name)
    requests = served.mix(settings.radius)
    with ExitStack() as stack:
        helpers = [stack.enter_context(Helper()) for _ in requests]
        server = stack.enter_context(serve_command(served))
        setting = Setting(served, server.urls, frozenset(helper.pid for helper in helpers))
        generator = LoadGenerator(helpers, setting, seed=settings.seed)
        load = generator.at_share(requests, settings.share, seconds=_SATURATION_SECONDS)
        calm = merged([generator.window(load, _WINDOW_SECONDS) for _ in range(_CALM_WINDOWS)])
        commander = stack.enter_context(ThreadPoolExecutor(1))
        versions = (first.version, second.version)  # the newest is served first
        commands = commander.submit(_switch, server, served, versions, settings.switches, progress)
        switching = merged([*_while_it_runs(commands, generator, load)])
        kept_out = tuple(_kept_out(server, served))
    return SwitchingRecord(
        **vars(begun),
        model=served.name,
        architecture=served.architecture,
        data=served.data,
        share=settings.share,
        switches=tuple(commands.result()),
        calm=calm.heard,
        switching=switching.heard,
        kept_out=kept_out,
        targets=tuple(_targets(switching.heard, kept_out)),
    )


def _while_it_runs(commands: Future[list[SwitchRow]], generator: LoadGenerator, load: Load) -> Iterator[Window]:
    while not commands.done():
        yield generator.window(load, _WINDOW_SECONDS)


def _switch(
    server: ServeCommand, served: ServedModels, versions: tuple[int, int], times: int, progress: Progress
) -> list[SwitchRow]:
    """Switch to the first of the versions and go back to the second, again and again."""
    turns = islice(cycle(zip(("switch", "rollback"), versions, strict=True)), times)
    return [_timed(server, served, command, version) for command, version in progress(turns, times, "switches")]


def _timed(server: ServeCommand, served: ServedModels, name: str, version: int) -> SwitchRow:
    begin = time.perf_counter()
    done = _command(server, served, name, *([str(version)] if name == "switch" else []))
    if done.returncode or f"version {version} is served" not in done.stdout:
        raise HeatserveError(f"heatserve {name}: expected version {version} to be served, found: {_said(done, served)}")
    return SwitchRow(command=name, version=version, seconds=time.perf_counter() - begin)


def _command(server: ServeCommand, served: ServedModels, *words: str) -> subprocess.CompletedProcess[str]:
    """A command that finds the server by its repository, in the temporary folder that this was told of."""
    command, *rest = words
    line = [sys.executable, "-m", "heatserve", command, served.name, *rest, "--repository", str(served.repository)]
    environment = {**os.environ, "TMPDIR": str(server.folder)}
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)


def _kept_out(server: ServeCommand, served: ServedModels) -> Iterator[KeptOut]:
    """Versions with a fault, each switched to by its number."""
    model_dir = served.repository / served.name
    good = open_model(served.repository, served.name)
    numbers = count(good.version + 1)
    for fault, damage in _FAULTS.items():
        folder = model_dir / str(next(numbers))
        shutil.copytree(good.path, folder)
        damage(folder)
        done = _command(server, served, "switch", folder.name)
        yield KeptOut(fault=fault, said=_said(done, served), exit_code=done.returncode)
        shutil.rmtree(folder)


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _change_sigma(path: Path) -> None:
    card = json.loads(path.read_bytes())
    path.write_text(json.dumps({**card, "sigma": 2 * card["sigma"]}))


_FAULTS: Mapping[str, Callable[[Path], object]] = MappingProxyType(
    {
        "a bit of the served graph is another": lambda folder: _flip_a_bit(folder / GRAPH_NAME),
        "a bit of the base graph is another": lambda folder: _flip_a_bit(folder / BASE_NAME),
        "the served graph is half copied": lambda folder: os.truncate(
            folder / GRAPH_NAME, (folder / GRAPH_NAME).stat().st_size // 2
        ),
        "the card says twice the sigma": lambda folder: _change_sigma(folder / CARD_NAME),
        "there is no card": lambda folder: (folder / CARD_NAME).unlink(),
    }
)


def _said(done: subprocess.CompletedProcess[str], served: ServedModels) -> str:
    """The last line that a command said, with hashes shortened and the repository's own name for its place."""
    lines = (done.stdout + done.stderr).replace(str(served.repository), "model_repository").strip().splitlines()
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1…", lines[-1] if lines else "")


def _targets(heard: Sequence[Heard], kept_out: Sequence[KeptOut]) -> Iterator[LoadTarget]:
    errors = sum(sum(one.errors.values()) for one in heard)
    yield target_at_most("requests without an answer", errors, 0)
    served = sum(one.exit_code == 0 for one in kept_out)
    yield target_at_most("versions with a fault that were served", served, 0)
