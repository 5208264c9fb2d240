"""What every user sees first: help that teaches, errors without tracebacks, and no torch where none is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heatserve.cli import app

COMMANDS = [
    ["train", "baseline"],
    ["train", "heat"],
    ["train", "noise"],
    ["train", "smoothadv"],
    ["train", "madry"],
    ["train", "average"],
    ["import-weights"],
    ["import-onnx"],
    ["export"],
    ["calibrate"],
    ["audit"],
    ["calibrate-variant"],
    ["certify-dataset"],
    ["tune"],
    ["paper"],
    ["plan"],
    ["tiers"],
    ["sign"],
    ["switch"],
    ["rollback"],
    ["conformance"],
    ["fuzz"],
    ["serve"],
    ["predict"],
    ["certify"],
    ["quickstart"],
    ["playground"],
    ["bench", "latency"],
    ["bench", "export"],
    ["bench", "training"],
    ["bench", "certify"],
    ["bench", "calibration"],
    ["bench", "load"],
    ["bench", "switch"],
    ["bench", "tiers"],
    ["reference"],
    ["bench", "front"],
    ["bench", "soak"],
    ["bench", "shadow"],
    ["attack"],
    ["attack-tiers"],
    ["paper"],
    ["report"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_teaches_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: heatserve {' '.join(command)}" in result.output


def test_the_front_page_says_where_to_start() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert "heatserve quickstart" in result.output
    assert "train heat or train average → export → calibrate → audit → serve → predict" in result.output


def test_the_front_page_lists_commands_in_the_order_of_work() -> None:
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    panels = re.findall("─ (Start here|Your own model|Serve|Measure) ─", output)
    assert panels == ["Start here", "Your own model", "Serve", "Measure"]
    listed = re.findall(r"^│ ([a-z][a-z-]+) ", output, re.MULTILINE)
    assert sorted(listed) == sorted({command[0] for command in COMMANDS})
    assert listed[0] == "quickstart"
    steps = [listed.index(name) for name in ("train", "export", "calibrate", "audit", "serve", "predict", "bench")]
    assert steps == sorted(steps)


def test_import_weights_writes_no_log() -> None:
    output = CliRunner().invoke(app, ["import-weights", "--help"], env={"COLUMNS": "200"}).output
    assert "Where to write the checkpoint (safetensors)." in output
    assert "epoch" not in output


def test_the_command_line_of_a_client_needs_no_heavy_library() -> None:
    heavy = ("torch", "torchvision", "onnx", "onnxruntime", "pydantic", "scipy", "sklearn", "tritonclient")
    code = f"import sys, heatserve.cli; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_serving_needs_no_torch() -> None:
    code = (
        "import sys, heatserve.tables, heatserve.serving.triton.server, heatserve.export.audit.audit, "
        "heatserve.export.graph.build; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


ANY_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
"""Whoever runs the tests may have a server."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "missing.safetensors", "--name", "x"], "missing.safetensors: expected a checkpoint file"),
        (["calibrate", "nothing"], "no model version here"),
        (["calibrate", "x", "--sampling", "bits"], "sampling: expected one of float32, grid, got bits"),
        (
            ["serve", "--repository", "nowhere", *ANY_PORTS],
            "nowhere: expected a model repository, found no such folder",
        ),
        (["bench", "latency", "digit"], "shape: expected one of digits, cifar10-resnet20"),
        (["bench", "load", "digit"], "model: expected one of digits, cifar10-resnet20"),
        (["bench", "load", "digits", "--third-party", "ab"], "third-party: expected one of wrk, hey, got ab"),
        (["bench", "export", "--variant", "fp8"], "variant: expected one of fp32, uint8, fp16, int8, got fp8"),
    ],
)
def test_errors_are_explained_without_a_traceback(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "heatserve"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("package", "command", "extras"),
    [("onnx", "calibrate x", "'heatserve[train]' to train"), ("foolbox", "paper", "'heatserve[bench]'\n")],
)
def test_a_missing_package_is_explained(package: str, command: str, extras: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv = ['heatserve', *{command.split()!r}]; "
        "from heatserve.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"needs the package '{package}" in done.stderr
    assert f"which is not installed: {sys.executable} -m pip install {extras}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    arguments = ["train", "baseline", "--data", "digits", "--architecture", "digits_cnn", "--out", "a.safetensors"]
    arguments += ["--tensorboard", "runs"]
    done = subprocess.run(
        [sys.executable, "-m", "heatserve", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: runs: expected a folder, or none yet, got: File exists"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_explained_and_leaves_no_half_written_file(tmp_path: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "sys.argv = 'heatserve train baseline --data digits --architecture digits_cnn --epochs 1'.split()\n"
        "sys.argv += ['--out', 'runs/a.safetensors']\n"
        "from heatserve.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: runs/a.safetensors: expected room to write, got: File too large"
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a.jsonl"]


def test_a_terminal_without_greek_letters_loses_no_result() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    found = subprocess.run(
        [sys.executable, "-m", "heatserve", "export", "--help"], env=environment, capture_output=True, check=False
    )
    assert found.returncode == 0, found.stderr.decode("latin-1")
    assert "--sigma" in found.stdout.decode("latin-1")
