"""Which Triton it is, and whether it is new enough to meet callers from other machines."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from heatserve.serving.errors import ServingError
from heatserve.serving.triton.installation import Triton

_SECONDS = 30.0  # a machine with several GPUs takes some of them; without one it takes 0.03
_NOWHERE = "/dev/null/none"  # no folder can be there: Triton says its version, and ends before it listens anywhere
_SERVER_VERSION = re.compile(r"^\|\s*server_version\s*\|\s*(\d+)\.(\d+)\.(\d+)(\S*)\s*\|", re.MULTILINE)


@dataclass(frozen=True, order=True)
class TritonVersion:
    """A version of Triton as it says itself: 2.70.0 is the one of NVIDIA's container 26.06."""

    major: int
    minor: int
    patch: int = 0
    is_release: bool = True
    """False of a build before the release of that number, such as 2.70.0dev."""

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}{'' if self.is_release else ' (before its release)'}"


FLOOR = TritonVersion(2, 70)
"""The oldest version whose own ports may be open to other machines: all that NVIDIA's bulletins name is fixed in it."""

FLOOR_CONTAINER = "26.06"
"""The release of NVIDIA's container with `FLOOR`."""


def version_of(triton: Triton) -> TritonVersion | None:
    """What the program itself says; None where it says nothing that can be read."""
    try:
        changed = triton.binary.stat().st_mtime_ns
    except OSError:
        return None
    return _asked(triton.binary, triton.libraries, changed)


def below_floor(version: TritonVersion | None) -> str | None:
    """Why this Triton must not listen beyond this machine; None where it may."""
    if version is not None and version >= FLOOR:
        return None
    released = f"{FLOOR} (NVIDIA's container {FLOOR_CONTAINER})"
    if version is None:
        return f"the version of this Triton is unknown, and may be older than {released}"
    return f"Triton {version} is older than {released}, and ways to attack it are public"


def check_exposed(option: str, version: TritonVersion | None) -> None:
    """Refuse an option that would open a port of Triton's own to other machines, where its version is below the floor.

    Raises:
        ServingError: it is. Names the option and what to do.
    """
    reason = below_floor(version)
    if reason is not None:
        raise ServingError(
            f"{option}: expected Triton {FLOOR} or newer where --host is not this machine alone, found that {reason}; "
            "leave the option out: the front answers HTTP for other machines"
        )


@lru_cache(maxsize=8)
def _asked(binary: Path, libraries: Path | None, changed: int) -> TritonVersion | None:  # noqa: ARG001  # a key
    paths = filter(None, (str(libraries or ""), os.environ.get("LD_LIBRARY_PATH", "")))
    try:
        said = subprocess.run(
            [str(binary), f"--model-repository={_NOWHERE}"],
            env={**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _SERVER_VERSION.search(said)
    if found is None:
        return None
    return TritonVersion(int(found[1]), int(found[2]), int(found[3]), is_release=not found[4])
