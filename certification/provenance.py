"""How a result that is being made now is made, and of which files, so that somebody else can make it again."""

from __future__ import annotations

import hashlib
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from heatserve.certification.cores import usable_cores


def provenance(*packages: str) -> dict[str, Any]:
    """The command, the machine, the versions of heatserve, Python and the given packages, and the date."""
    return {
        "command": " ".join(["heatserve", *sys.argv[1:]]),
        "machine": {"processor": _processor(), "cores": usable_cores(), "system": platform.platform()},
        "versions": versions("python", *packages),
        "date": now(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of heatserve and of the given packages, by name; what is not installed is left out.

    `python` is the interpreter. It is given only where it is named: a training whose checkpoint says other versions
    than the installed ones is not resumed, and a network does not depend on the interpreter.
    """
    found: dict[str, str] = {}
    for package in ("heatserve", *packages):
        try:
            found[package] = platform.python_version() if package == "python" else version(package)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _processor() -> str:
    """The processor's own name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
