"""The public names of the certification library, and an import that costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import heatserve.certification

HEAVY = ("scipy", "mpmath", "numpy", "torch", "onnx", "pydantic")


def test_importing_the_library_imports_nothing_heavy() -> None:
    code = f"import sys, heatserve.certification; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert dir(heatserve.certification) == heatserve.certification.__all__
    for name in heatserve.certification.__all__:
        assert getattr(heatserve.certification, name) is not None


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'certified'"):
        _ = heatserve.certification.certified
