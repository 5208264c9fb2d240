"""What every result says about how it was made, and where it is written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from heatserve.certification.files import write_atomically
from heatserve.certification.provenance import provenance as how_made

_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy", "tritonclient", "nvidia-pytriton")


def provenance(*, seed: int) -> dict[str, Any]:
    """The command, machine, versions, seed and date of a measurement that is being taken now.

    Among them the load of the machine by others in the last minute: well above 0, what is timed is noisy.
    """
    found = {**how_made(*_PACKAGES), "seed": seed}
    found["machine"]["load_average"] = os.getloadavg()[0]
    return found


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON, atomically."""
    write_atomically(path, (json.dumps(results, indent=2) + "\n").encode())
