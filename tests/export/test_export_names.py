"""The public names of the export library and its parts, and an import that costs nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

ROOMS = ("heatserve.export", "heatserve.export.calibration", "heatserve.export.audit")
HEAVY = ("scipy", "torch", "onnx", "onnxruntime", "pydantic", "matplotlib", "tritonclient")


def test_importing_the_library_imports_nothing_heavy() -> None:
    code = f"import sys, {', '.join(ROOMS)}; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there(room: str) -> None:
    package = import_module(room)
    assert dir(package) == package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_what_reads_and_judges_needs_no_torch() -> None:
    code = (
        "import sys; from heatserve.export import Certifier, audit_model, calibrate_model, open_model; "
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
