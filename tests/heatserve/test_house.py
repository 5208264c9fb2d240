"""The house: one import, public names that are there, and one meaning for each name in all rooms."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("certification", "training", "export", "serving", "benchmarks")


def modules_after(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after `statement`, other than the standard library."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {name.split(".")[0] for name in found} - set(sys.stdlib_module_names)


def test_importing_heatserve_loads_nothing_else() -> None:
    assert modules_after("import heatserve") == {"heatserve"}


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_room_loads_nothing_else(room: str) -> None:
    """What a room offers is imported when it is asked for, so that `--help` is quick and serving needs no torch."""
    assert modules_after(f"import heatserve.{room}") == {"heatserve"}


PACKAGES = sorted(
    "heatserve." + str(path.parent.relative_to(ROOT)).replace("/", ".")
    for room in ROOMS
    for path in (ROOT / room).rglob("__init__.py")
)


@pytest.mark.parametrize("package", ["heatserve", *PACKAGES])
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert sorted(dir(module)) == sorted(names) or not names
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(module, "nothing")  # noqa: B009


def public_definitions(path: Path) -> Iterator[str]:
    """Classes, functions, type aliases and constants that a module defines under a public name."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        yield from (name for name in names if not name.startswith("_") and len(name) > 1)


def test_one_name_has_one_meaning() -> None:
    """`main` is what a program is; a command in `heatserve/commands` is named as it is typed."""
    where = defaultdict(list)
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for name in public_definitions(path):
                where[name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in where.items() if len(paths) > 1 and name != "main"} == {}
