"""`heatserve bench certify`, small: every way is timed, and decisions are counted on images of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from heatserve.benchmarks.records.record import read_record
from heatserve.benchmarks.records.votes import VoteRecord
from heatserve.benchmarks.votes import VOTE_BATCH_SIZES, _ways
from heatserve.cli import app
from heatserve.training.data.cifar10 import CIFAR10_CLASSES

WAYS = ["onnxruntime", "heatserve", "heatserve, grid", "torch loop", "art"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """CIFAR-10's layout and classes, one test image of noise each."""
    for part in ("train", "test"):
        for index, name in enumerate(CIFAR10_CLASSES):
            (tmp_path / part / name).mkdir(parents=True)
            pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / name / "0000.png")
    return tmp_path


@pytest.mark.slow
def test_everything_is_measured_and_shown(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "certify.json"
    small = ["--rounds", "1", "--passes", "20", "--images", "2", "--n0", "10", "--n", "60"]
    small += ["--certify-n", "30", "--seed", "3"]
    result = CliRunner().invoke(
        app,
        ["bench", "certify", *small, "--root", str(root), "--out", str(out)],
        env={"COLUMNS": "200"},
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert "renders docs/results/cost.md" in result.stderr.splitlines()[-1]
    record = read_record(out, VoteRecord)
    assert record.seed == 3
    assert "adversarial-robustness-toolbox" in record.versions
    assert record.machine.load_average is not None
    speeds = record.speed.passes_per_second
    assert list(speeds) == WAYS
    assert all(found.keys() == {*VOTE_BATCH_SIZES} for found in speeds.values())
    best = {name: max(found.values()) for name, found in speeds.items()}
    assert record.speed.ratios["heatserve / torch loop"] == pytest.approx(best["heatserve"] / best["torch loop"])
    assert record.deciding is not None
    for name in ("float32", "grid"):
        found = record.deciding.samplings[name].decide
        assert found.yes + found.no + found.undecided == 2
        assert 10 < found.mean_samples <= 70
        assert found.times_fewer == pytest.approx(70 / found.mean_samples)
        assert f"{name}: {found.yes} yes" in result.output
    for name in WAYS:
        assert f"│ {name} " in result.output


@pytest.mark.slow
def test_the_peers_certify_what_we_certify() -> None:
    """A random network votes for one class: every way proves the most that its votes can prove."""
    ways = _ways(100, seed=0)
    radii = [ways[name](64) for name in WAYS[1:]]
    assert radii[0] > 0
    assert radii == pytest.approx([radii[0]] * 4)
