"""The published CIFAR-10 networks keep their published accuracy when they are imported."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heatserve.cli import app
from heatserve.training.checkpoint import load_checkpoint
from heatserve.training.data.splits import load_data
from heatserve.training.evaluate import accuracy


def _shared(*parts: str) -> Path:
    """A file of the shared folder, or a skipped test where there is none."""
    folder = Path(os.environ.get("HEATSERVE_SHARED", Path(__file__).parents[3] / "shared"))
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there; HEATSERVE_SHARED may name another folder")
    return path


@pytest.mark.slow
def test_resnet20_classifies_91_73_percent_of_the_cifar10_test_set(tmp_path: Path) -> None:
    weights, images = _shared("weights", "cifar10_resnet20.safetensors"), _shared("cifar10", "test.tar")
    out = tmp_path / "resnet20.safetensors"
    arguments = [
        "import-weights",
        str(weights),
        "--architecture",
        "cifar_resnet20",
        "--data",
        "cifar10",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with tarfile.open(images) as archive:
        archive.extractall(tmp_path, filter="data")
    data = load_data("cifar10", "test", tmp_path)
    assert len(data) == 10_000
    assert accuracy(load_checkpoint(out).network, data) == pytest.approx(0.9173, abs=5e-4)
