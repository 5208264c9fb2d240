"""Which Python `make` takes, with programs of these names on PATH that say they are of another version.

And what it says of an installation before it begins.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cp", "mkdir")
INTERPRETER = """\
#!/bin/bash
if [ "$1" = -c ]; then
    exec {real} -c 'import sys; sys.version_info = ({version}, 0, "final", 0)
sys.executable = "{path}"
exec(sys.argv[1])' "$2"
fi
mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
"""
UV = """\
#!/bin/bash
echo "uv $*" >> {folder}/uv.log
case "$1 $2" in
"python find") test -e {folder}/managed/python3.12 && echo {folder}/managed/python3.12 ;;
"python install") mkdir {folder}/managed && cp {folder}/hidden {folder}/managed/python3.12 ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def interpreter(path: Path, version: tuple[int, int]) -> None:
    program(path, INTERPRETER.format(real=sys.executable, version=f"{version[0]}, {version[1]}", path=path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder to be PATH, without any Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def make(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Have `make` make the environment, and nothing in it."""
    environment = path.parent / "environment"
    command = [str(shutil.which("make")), "--no-print-directory", f"VENV={environment}", *arguments]
    return subprocess.run(
        [*command, f"{environment}/bin/python"],
        cwd=ROOT,
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"python3": (3, 11), "python3.12": (3, 12)}, "python3"),
        ({"python3": (3, 13), "python3.12": (3, 12), "python3.11": (3, 11)}, "python3.12"),
        ({"python3": (3, 14), "python3.11": (3, 11), "python3.10": (3, 10)}, "python3.11"),
        ({"python3": (3, 9), "python3.10": (3, 10)}, "python3.10"),
        ({"python3.10": (3, 10)}, "python3.10"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, dict) else None,
)
def test_the_first_python_that_the_server_runs_with_is_taken(
    path: Path, there: dict[str, tuple[int, int]], taken: str
) -> None:
    for name, version in there.items():
        interpreter(path / name, version)
    done = make(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Taking Python {there[taken][0]}.{there[taken][1]} ({path / taken}).\n"


def test_uv_is_asked_where_there_is_no_other(path: Path) -> None:
    interpreter(path / "python3", (3, 14))
    interpreter(path / "hidden", (3, 12))
    program(path / "uv", UV.format(folder=path))
    done = make(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Taking Python 3.12 (")
    asked = (path / "uv.log").read_text().splitlines()
    assert asked == ["uv python find --no-project 3.12", "uv python install 3.12", "uv python find --no-project 3.12"]


def test_what_was_found_and_what_would_do_is_said_where_there_is_none(path: Path) -> None:
    interpreter(path / "python3", (3, 14))
    done = make(path)
    assert done.returncode != 0
    assert (
        f"for which Triton's wheel is built; found Python 3.14 ({path / 'python3'}), and no python3.12," in done.stderr
    )
    assert "python3.11, python3.10, or uv that has one, on PATH. Install one of them, or name one: make " in done.stderr
    assert not (path.parent / "environment").exists()
    (path / "python3").unlink()
    assert "found no python3, and no python3.12," in make(path).stderr


def test_what_the_user_names_is_taken_or_refused(path: Path) -> None:
    interpreter(path / "python3", (3, 11))
    interpreter(path / "python3.13", (3, 13))
    refused = make(path, "PYTHON=python3.13")
    assert refused.returncode != 0
    assert (
        f"PYTHON: expected Python 3.10 to 3.12, got python3.13: Python 3.13 ({path / 'python3.13'})" in refused.stderr
    )
    interpreter(path / "mine", (3, 10))
    assert make(path, f"PYTHON={path / 'mine'}").stdout == f"Taking Python 3.10 ({path / 'mine'}).\n"


@pytest.mark.parametrize(
    ("target", "extra", "brings"),
    [
        ("serve", "train", "PyTorch, ONNX Runtime, Triton"),
        ("test", "dev", "PyTorch, ONNX Runtime, Triton"),
        ("docs", "docs", "MkDocs"),
    ],
)
def test_what_is_installed_is_announced_for_each_extra(tmp_path: Path, target: str, extra: str, brings: str) -> None:
    command = ["make", "--dry-run", f"VENV={tmp_path}/environment", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert f'echo "Installing heatserve[{extra}] into {tmp_path}/environment: {brings}' in done.stdout
    assert ("PyTorch" in done.stdout) == (extra != "docs")
    assert re.search(r"[0-9]+ [GM]B of downloads and [0-9.]+ GB on disk", done.stdout)


@pytest.mark.parametrize("python", ["3.10.0", "3.11.0", "3.12.0"])
def test_every_pin_is_for_each_python_that_it_says(python: str) -> None:
    """pip does not name a pin that a Python cannot have: it tries other versions of all the rest, for an hour."""
    environment = {"python_version": python.rsplit(".", 1)[0], "python_full_version": python}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    installed = {found.metadata["Name"].lower().replace("_", "-"): found for found in distributions()}
    wrong, compared = [], 0
    for pin in pins:
        found = installed.get(pin.name.lower().replace("_", "-"))
        if found is None or not pin.specifier.contains(found.version):
            continue  # for another Python than this one
        compared += 1
        needs = SpecifierSet(found.metadata["Requires-Python"] or "")
        if (pin.marker is None or pin.marker.evaluate(environment)) and python not in needs:
            wrong.append(f"{pin}, which needs {needs}")
    assert compared > 40
    assert wrong == []
