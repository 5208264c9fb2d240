"""What a server holds at one moment: memory, descriptors, processes, shared memory and temporary files."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from heatserve.benchmarks.load.serve_command import ServeCommand
from heatserve.benchmarks.load.server_use import descriptors_of, memory_of
from heatserve.benchmarks.records.soak import SoakSample
from heatserve.serving.triton.debris import SHARED_MEMORY

ALL = "all"
"""The key of what all processes have together."""
_MIB = 2**20


def sample_of(server: ServeCommand, *, minute: float) -> SoakSample:
    """Look at all of its processes now."""
    memory, files, processes = Counter[str](), Counter[str](), Counter[str]()
    for process, kind in server.processes().items():
        memory[kind] += memory_of(process.pid)[0]  # type: ignore[assignment]
        files[kind] += descriptors_of(process.pid)
        processes[kind] += 1
    folders = [path.name for path in server.folder.iterdir() if path.is_dir()]
    regions = [path for name in folders for path in SHARED_MEMORY.glob(f"{name}*")]
    return SoakSample(
        minute=minute,
        rss_mib={**memory, ALL: sum(memory.values())},
        files={**files, ALL: sum(files.values())},
        processes={**processes, ALL: sum(processes.values())},
        shared_mib=sum(map(_size, regions)) / _MIB,
        temporary_mib=sum(map(_size, server.folder.rglob("*"))) / _MIB,
    )


def growth_of(samples: Sequence[SoakSample]) -> dict[str, float]:
    """By how much the median of the memory of each kind is larger in the last quarter than in the second one."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples[:1], samples[-quarter:]
    kinds = set.intersection(*(set(sample.rss_mib) for sample in (*early, *late)))
    return {kind: _median(late, kind) / _median(early, kind) - 1 for kind in sorted(kinds)}


def _median(samples: Sequence[SoakSample], kind: str) -> float:
    return statistics.median(sample.rss_mib[kind] for sample in samples)


def _size(path: Path) -> int:
    with suppress(OSError):
        found = path.lstat()
        return found.st_blocks * 512 if path.is_file() and not path.is_symlink() else 0
    return 0
