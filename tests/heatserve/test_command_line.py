"""What every user sees first: help that teaches, errors without tracebacks, and no torch where none is needed."""

from __future__ import annotations

import json
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
    ["export"],
    ["calibrate"],
    ["audit"],
    ["calibrate-variant"],
    ["certify-dataset"],
    ["tune"],
    ["conformance"],
    ["serve"],
    ["predict"],
    ["quickstart"],
    ["bench", "latency"],
    ["bench", "export"],
    ["bench", "training"],
    ["bench", "certify"],
    ["bench", "calibration"],
    ["experiment", "cifar10"],
    ["attack"],
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "missing.safetensors", "--name", "x"], "missing.safetensors: expected a checkpoint file"),
        (["calibrate", "nothing"], "no model version here"),
        (["calibrate", "x", "--sampling", "bits"], "sampling: expected one of float32, grid, got bits"),
        (["serve", "--repository", "nowhere"], "nowhere: expected a model repository, found no model in it"),
        (["bench", "latency", "digit"], "shape: expected one of digits, cifar10-resnet20"),
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


def test_a_missing_package_is_explained(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['onnx'] = None; sys.argv = ['heatserve', 'calibrate', 'x']; "
        "from heatserve.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs the package 'onnx', which is not installed: pip install 'heatserve[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_bench_latency_measures_every_way_and_writes_how_it_was_made(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    arguments = ["bench", "latency", "digits", "--requests", "10", "--out", str(out), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    results = json.loads(out.read_text())
    assert {"command", "machine", "versions", "seed", "date"} <= set(results)
    digits = results["shapes"]["digits"]
    assert digits["requests"]["plain"] == digits["requests"]["certified"] == 10
    p50 = {way: times["p50"] for way, times in digits["milliseconds"].items()}
    assert list(p50) == ["plain", "certified", "grpc", "http", "stochastic"]
    for ratio in ("certified / plain", "stochastic / grpc"):  # one round: the ratio of its medians
        way, base = ratio.split(" / ")
        assert digits["ratios"][ratio]["p50"] == pytest.approx(p50[way] / p50[base])
    assert p50["plain"] < p50["grpc"]
    assert p50["plain"] < p50["stochastic"]


def test_bench_export_measures_every_variant_and_says_which_engines_are_absent(tmp_path: Path) -> None:
    out = tmp_path / "export.json"
    arguments = ["bench", "export", "digits", "--variant", "fp32", "--variant", "uint8", "--batch", "2"]
    result = CliRunner().invoke(app, [*arguments, "--requests", "20", "--out", str(out)])
    assert result.exit_code == 0, result.output
    results = json.loads(out.read_text())
    assert {"command", "machine", "versions", "seed", "date"} <= set(results)
    engines = ["CPU", "CUDA", "TensorRT"]
    present = [engine for engine in engines if engine not in results["absent"]]
    assert "CPU" in present
    for engine, why in results["absent"].items():
        assert f"{engine} absent: {why}"[:60] in result.output
    rows = results["shapes"]["digits"]
    assert [(row["engine"], row["variant"]) for row in rows] == [(e, v) for v in ("fp32", "uint8") for e in present]
    for row in rows:
        assert (row["batch"], row["requests"]) == (2, 20)
        assert 1 < row["certified / plain"]["p50"] < 10  # a tiny network: the certificate is most of it
    assert rows[0]["fp32 / variant"]["p50"] == 1
