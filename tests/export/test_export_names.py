"""The public names of the parts of export, and an import that costs nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

PARTS = ("heatserve.export.calibration", "heatserve.export.audit")
HEAVY = ("scipy", "torch", "onnx", "onnxruntime", "pydantic", "matplotlib", "tritonclient")


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_a_part_imports_nothing_heavy() -> None:
    assert printed(f"import sys, {', '.join(PARTS)}; print([n for n in {HEAVY} if n in sys.modules])") == "[]"


@pytest.mark.parametrize("part", PARTS)
def test_every_public_name_is_there(part: str) -> None:
    package = import_module(part)
    assert dir(package) == package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_what_calibrates_and_audits_needs_no_torch() -> None:
    names = "Certifier, audit_model, calibrate_model, open_model"
    assert printed(f"import sys; from heatserve.export import {names}; print('torch' in sys.modules)") == "False"
