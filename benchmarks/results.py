"""What every result says about how it was made, and where it is written."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from certification.files import write_atomically
from export.card import now, versions


def provenance(*, seed: int) -> dict[str, Any]:
    """The command, machine, versions, seed and date of a measurement that is being taken now."""
    return {
        "command": " ".join(["heatserve", *sys.argv[1:]]),
        "machine": {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        "versions": versions("torch", "onnx", "onnxruntime", "numpy", "tritonclient", "nvidia-pytriton"),
        "seed": seed,
        "date": now(),
    }


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON, atomically."""
    write_atomically(path, (json.dumps(results, indent=2) + "\n").encode())


def _processor() -> str:
    """The processor's own name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
