"""How many cores a process may use: those of the scheduler, and at most the quota of its cgroups."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heatserve.certification.cores import cpu_quota, usable_cores

V1_MOUNT = "34 30 0:30 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
V2_MOUNT = "30 23 0:28 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
REAL_V1 = Path("/sys/fs/cgroup/cpu/heatserve_test")
REAL_V2 = Path("/sys/fs/cgroup/heatserve_test")


def system(root: Path, *, mounts: str, cgroup: str, files: dict[str, str]) -> Path:
    """A file system that says so, and has these files below /sys/fs/cgroup."""
    texts = {"proc/self/mountinfo": mounts, "proc/self/cgroup": cgroup}
    for name, text in {**texts, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def quota_v1(folder: str, quota: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("mounts", "cgroup", "files", "expected"),
    [
        # a container with a name space of its own for cgroups, as Docker makes them on cgroup v2
        (V2_MOUNT.format(top="/"), "0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        (V2_MOUNT.format(top="/"), "0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        # a service of systemd: the quota may be that of a slice around it
        (
            V2_MOUNT.format(top="/"),
            "0::/a.slice/b.service\n",
            {"a.slice/cpu.max": "50000 100000\n", "a.slice/b.service/cpu.max": "max 100000\n"},
            0.5,
        ),
        # without a name space: what is mounted is the container's own part of the hierarchy
        (
            V1_MOUNT.format(top="/docker/7f"),
            "4:cpu,cpuacct:/docker/7f\n1:name=systemd:/docker/7f\n",
            quota_v1("cpu,cpuacct", 250_000),
            2.5,
        ),
        (V1_MOUNT.format(top="/"), "4:cpu,cpuacct:/x\n", quota_v1("cpu,cpuacct/x", -1), math.inf),
        # both: the controller `cpu` is where it is
        (
            V1_MOUNT.format(top="/") + V2_MOUNT.format(top="/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
            "4:cpu,cpuacct:/x\n0::/y\n",
            quota_v1("cpu,cpuacct/x", 300_000),
            3.0,
        ),
        # a cgroup outside of what the container sees
        (V2_MOUNT.format(top="/"), "0::/../other\n", {"cpu.max": "400000 100000\n"}, 4.0),
        ("", "", {}, math.inf),
        ("nonsense\n", "0::/\n", {}, math.inf),
    ],
    ids=["v2", "no quota", "around", "v1", "v1 no quota", "both", "outside", "no cgroups", "damaged"],
)
def test_the_quota_is_the_least_of_all_cgroups_around(
    tmp_path: Path, mounts: str, cgroup: str, files: dict[str, str], expected: float
) -> None:
    root = system(tmp_path, mounts=mounts, cgroup=cgroup, files=files)
    assert cpu_quota(root) == expected
    allowed = len(os.sched_getaffinity(0))
    assert usable_cores(root) == (allowed if expected > allowed else math.ceil(expected))


@pytest.fixture
def real_cgroup() -> Iterator[Path]:
    """A cgroup with a quota of half a core, where this user may make one."""
    folder = REAL_V1 if REAL_V1.parent.is_dir() else REAL_V2
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"{folder}: {error.strerror}")
    try:
        (folder / "cpu.cfs_quota_us").write_text("50000") if folder == REAL_V1 else (folder / "cpu.max").write_text(
            "50000 100000"
        )
        yield folder
    except OSError as error:
        pytest.skip(f"{folder}: {error.strerror}")
    finally:
        folder.rmdir()


def test_a_real_quota_bounds_the_threads_of_onnx_runtime_torch_and_the_command_line(real_cgroup: Path) -> None:
    code = f"""
import os
open({str(real_cgroup / "cgroup.procs")!r}, "w").write(str(os.getpid()))
os.environ.pop("OMP_NUM_THREADS", None)
os.sched_setaffinity(0, range(os.cpu_count()))
from heatserve.certification.cores import cpu_quota, usable_cores
from heatserve.cli import _keep_to_quota
from heatserve.export.repository.settings import THREADS, default_settings, keep_to_quota
settings = default_settings(64)
keep_to_quota(settings)
_keep_to_quota()
import torch
print(cpu_quota(), usable_cores(), settings.parameters[THREADS].string_value, torch.get_num_threads())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.5", "1", "1", "1"]
