"""What the processes of a server take of the machine, by kind, from `/proc`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from heatserve.benchmarks.records.load import ProcessUse
from heatserve.serving.triton.processes import STUB, Process, model_of

_MODULES = {"front": "heatserve.serving.front", "voter": "heatserve.serving.tiers.voter"}
_MIB = 1024  # in the unit of /proc, KiB


@dataclass(frozen=True)
class ServerLook:
    """All processes of a server at one moment."""

    kinds: Mapping[Process, str]
    seconds: Mapping[Process, float]
    """CPU seconds of each since it began."""


def look_at_server(parent: int, *, apart: Set[int]) -> ServerLook:
    """The processes that descend from `parent`, but for those whose numbers are in `apart`."""
    kinds = dict(_descendants(parent, apart))
    return ServerLook(kinds, {process: process.look().seconds for process in kinds})


def use_between(before: ServerLook, after: ServerLook, *, seconds: float) -> dict[str, ProcessUse]:
    """What each kind of process took between two looks so many seconds apart; its memory is read now."""
    found: dict[str, ProcessUse] = {}
    for process, kind in after.kinds.items():
        cores = (after.seconds[process] - before.seconds.get(process, 0.0)) / seconds
        rss, shared = memory_of(process.pid)
        other = found.get(kind, ProcessUse(cores=0.0, rss_mib=0.0, shared_mib=0.0))
        found[kind] = ProcessUse(
            cores=other.cores + cores, rss_mib=other.rss_mib + rss, shared_mib=other.shared_mib + shared
        )
    return dict(sorted(found.items()))


def _descendants(parent: int, apart: Set[int]) -> Iterator[tuple[Process, str]]:
    children: dict[int, list[tuple[Process, list[str]]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(errors="replace").rpartition(") ")[2].split()
            words = (folder / "cmdline").read_text(errors="replace").rstrip("\0").split("\0")
        except OSError:  # it has ended
            continue
        child = Process(int(folder.name), int(fields[19])), words
        children.setdefault(int(fields[1]), []).append(child)
    below = [*children.get(parent, [])]
    while below:
        process, words = below.pop()
        if process.pid not in apart and words[0]:  # one that has ended has no words
            below += children.get(process.pid, [])
            yield process, _kind_of(words)


def _kind_of(words: list[str]) -> str:
    """What a process is, by the words of its command."""
    program = Path(words[0]).name
    if program == "tritonserver":
        return "triton"
    if program == STUB:
        return f"stub {model_of(words)}"
    ours = (kind for kind in ("front", "voter") if any(_MODULES[kind] in word for word in words))
    return next(ours, program)


def memory_of(pid: int) -> tuple[float, float]:
    """MiB that are resident, and those of them that other processes have mapped too; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0.0, 0.0
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return sizes["Rss"] / _MIB, (sizes["Shared_Clean"] + sizes["Shared_Dirty"]) / _MIB


def descriptors_of(pid: int) -> int:
    """How many file descriptors are open; 0 where it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0
