"""How a measurement that is being taken now is made, so that somebody else can take it again."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from heatserve.export.card import now, versions


def provenance(*packages: str) -> dict[str, Any]:
    """The command, the machine, the versions of heatserve, Python and the given packages, and the date."""
    return {
        "command": " ".join(["heatserve", *sys.argv[1:]]),
        "machine": {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        "versions": versions(*packages),
        "date": now(),
    }


def _processor() -> str:
    """The processor's own name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
