"""What the packages of the room offer: every name is there, and importing them loads no heavy library."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

PACKAGES = ("heatserve.training", *(f"heatserve.training.{name}" for name in ("data", "loop", "methods")))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_none_is_hidden_by_a_module(package: str) -> None:
    """A module of the same name would be found in its place, once it has been imported."""
    module = importlib.import_module(package)
    assert module.__doc__
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        assert not isinstance(getattr(module, name), ModuleType), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_importing_the_packages_and_the_parameters_needs_no_torch() -> None:
    modules = (*PACKAGES, "heatserve.training.methods.parameters", "heatserve.training.loop.optimisation")
    code = (
        f"import sys, {', '.join(modules)}; print([name for name in ('torch', 'PIL', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
