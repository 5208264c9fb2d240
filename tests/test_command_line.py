"""What every user sees first: help that teaches, errors without tracebacks, and no torch where none is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import heatserve

COMMANDS = [
    ["train", "baseline"],
    ["train", "heat"],
    ["train", "noise"],
    ["train", "smoothadv"],
    ["train", "madry"],
    ["train", "average"],
    ["import-weights"],
    ["export"],
    ["calibrate"],
    ["audit"],
    ["certify-dataset"],
    ["serve"],
    ["predict"],
    ["quickstart"],
    ["bench", "latency"],
    ["bench", "training"],
    ["bench", "certify"],
    ["experiment", "cifar10"],
    ["attack"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_teaches_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(heatserve.app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: heatserve {' '.join(command)}" in result.output


def test_the_front_page_says_where_to_start() -> None:
    result = CliRunner().invoke(heatserve.app, ["--help"], env={"COLUMNS": "200"})
    assert "heatserve quickstart" in result.output
    assert "train heat or train average → export → calibrate → audit → serve → predict" in result.output


def test_the_command_line_of_a_client_needs_no_heavy_library() -> None:
    heavy = ("torch", "torchvision", "onnx", "onnxruntime", "pydantic", "scipy", "sklearn", "tritonclient")
    code = f"import sys, heatserve; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_serving_needs_no_torch() -> None:
    code = "import sys, serving, serving.table, export.auditing, export.graph; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "missing.safetensors", "--name", "x"], "missing.safetensors: expected a checkpoint file"),
        (["calibrate", "nothing"], "no model version here"),
        (["calibrate", "x", "--sampling", "bits"], "sampling: expected one of float32, grid, got bits"),
        (["serve", "--repository", "nowhere"], "nowhere: expected a model repository, found no model in it"),
        (["bench", "latency", "digit"], "shape: expected one of digits, cifar10-resnet20"),
    ],
)
def test_errors_are_explained_without_a_traceback(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "heatserve"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_package_is_explained(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['onnx'] = None; sys.argv = ['heatserve', 'calibrate', 'x']; "
        "import heatserve; heatserve.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs the package 'onnx', which is not installed: pip install 'heatserve[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_bench_latency_measures_every_way_and_writes_how_it_was_made(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    arguments = ["bench", "latency", "digits", "--requests", "10", "--out", str(out), "--json"]
    result = CliRunner().invoke(heatserve.app, arguments)
    assert result.exit_code == 0, result.output
    results = json.loads(out.read_text())
    assert {"command", "machine", "versions", "seed", "date"} <= set(results)
    digits = results["shapes"]["digits"]
    assert digits["requests"] == 10
    p50 = {way: times["p50"] for way, times in digits["milliseconds"].items()}
    assert list(p50) == ["plain", "certified", "grpc", "http", "stochastic"]
    assert digits["ratios"]["certified / plain"] == pytest.approx(p50["certified"] / p50["plain"])
    assert digits["ratios"]["stochastic / grpc"] == pytest.approx(p50["stochastic"] / p50["grpc"])
    assert p50["plain"] < p50["grpc"]
    assert p50["plain"] < p50["stochastic"]
