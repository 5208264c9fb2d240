"""How many cores this process may use: what the scheduler allows it, and the quota of CPU time of its container.

A container with `--cpus 2` on a machine of 64 cores may run on all of them, but only for two seconds in each second.
Whoever starts 64 threads there is stopped most of the time.

References:
    Linux, Documentation/admin-guide/cgroup-v2.rst (`cpu.max`) and Documentation/scheduler/sched-bwc.rst
    (`cpu.cfs_quota_us`, `cpu.cfs_period_us`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_V1, _V2 = "cgroup", "cgroup2"
_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """The cores that this process may run on, and at most its quota of CPU time, rounded up.

    Args:
        root: where `proc` and the cgroup file systems that it names are; another one for tests.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_quota(root))))


def cpu_quota(root: Path = _ROOT) -> float:
    """Seconds of CPU time in each second that the cgroups of this process allow it; infinity where none has a quota."""
    return min((quota for folder in _cgroups(root) for quota in _quotas(folder)), default=math.inf)


def _cgroups(root: Path) -> Iterator[Path]:
    """The folders of the cgroups that hold this process for the controller `cpu`, and of all around them, as seen here.

    A container often sees its own cgroup as the top of the file system, with or without a name for it: what is mounted
    may be a part (`mountinfo`'s fourth field) of the hierarchy in which `/proc/self/cgroup` names the cgroup.
    """
    for kind, top, mounted in _mounts(root):
        named = _named(root, kind)
        if named is None:
            continue
        below = PurePosixPath(named)
        inside = below.relative_to(top) if below.is_relative_to(top) else PurePosixPath()
        folder = root / mounted.relative_to("/")
        yield folder
        for part in inside.parts:
            if part == "..":  # outside of what this container sees
                return
            folder = folder / part
            yield folder


def _mounts(root: Path) -> Iterator[tuple[str, PurePosixPath, PurePosixPath]]:
    """Kind, the part of the hierarchy that is mounted, and where, for each that may have quotas of CPU time."""
    with suppress(OSError):
        for line in (root / "proc/self/mountinfo").read_text(errors="replace").splitlines():
            mount, _, system = line.partition(" - ")
            fields, (kind, *_, options) = mount.split(), system.split() or ("", "")
            if kind == _V2 or (kind == _V1 and "cpu" in options.split(",")):
                yield kind, PurePosixPath(fields[3]), PurePosixPath(fields[4])


def _named(root: Path, kind: str) -> str | None:
    """The cgroup of this process as `/proc/self/cgroup` names it: HIERARCHY:CONTROLLERS:PATH."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            if "cpu" in controllers.split(",") if kind == _V1 else not controllers:
                return path
    return None


def _quotas(folder: Path) -> Iterator[float]:
    """The quota of one cgroup, if it has one."""
    with suppress(OSError, ValueError):  # no file, or `max` in place of a number
        quota, period = map(int, (folder / "cpu.max").read_text().split())
        yield quota / period
    with suppress(OSError, ValueError):
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        if quota > 0:  # −1: none
            yield quota / period
