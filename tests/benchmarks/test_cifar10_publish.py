"""What `experiment cifar10 --publish` publishes was calibrated on images that chose no system."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import heatserve.benchmarks.cifar10.experiment as cifar10
import heatserve.benchmarks.cifar10.systems as cifar10_systems
import heatserve.benchmarks.paper.calibrating as calibrating
from heatserve.benchmarks.cifar10.systems import SYSTEMS
from heatserve.cli import app
from heatserve.export.calibration.attempts import read_attempts
from heatserve.export.card_parts import Calibration, Split
from heatserve.export.repository.layout import ATTEMPTS_NAME, open_model
from heatserve.training.data.cifar10 import CIFAR10_CLASSES
from heatserve.training.loop.optimisation import Optimisation

QUICK = Optimisation(epochs=1, batch_size=64, lr=0.01, cpu_threads=1)
IMAGES, TESTED = 57, 20


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10's layout, noise nearly all of one class, which any network learns to answer; one epoch a system."""
    random = np.random.default_rng(0)
    for part, count in (("train", 1200), ("test", 40)):
        for name in CIFAR10_CLASSES:
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for index in range(count if name == CIFAR10_CLASSES[0] else 1):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:04}.png")
    systems = {name: replace(system, optimisation=QUICK) for name, system in SYSTEMS.items()}
    for module in (cifar10, cifar10_systems):
        monkeypatch.setattr(module, "SYSTEMS", systems)
    for module in (cifar10, calibrating):
        monkeypatch.setattr(module, "CALIBRATION_IMAGES", IMAGES)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.mark.slow
def test_the_published_system_is_calibrated_anew(root: Path, tmp_path: Path) -> None:
    arguments = ["experiment", "cifar10", "--root", str(root), "--folder", "runs", "--results", "results.json"]
    arguments += ["--images", str(TESTED), "--n", "30", "--sigma", "0.25"]
    arguments += ["--system", "baseline", "--system", "average"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    rows = cifar10.read_rows(tmp_path / "results.json").rows
    parts = [row.calibration for row in rows]
    assert all(isinstance(part, Calibration) for part in parts)
    assert [(part.looks, part.level, round(part.confidence, 9)) for part in parts if isinstance(part, Calibration)] == [
        (1, calibrating.CALIBRATED_DELTA, 0.95),
        (2, calibrating.CALIBRATED_DELTA, 0.9),
    ]
    assert {row.evaluation.monte_carlo.n for row in rows} == {30}

    CliRunner().invoke(app, [*arguments, "--publish", "served"], catch_exceptions=False)
    published = open_model(tmp_path / "model_repository", "served")
    calibration, evaluation = published.card.calibration, published.card.evaluation
    assert calibration is not None
    assert evaluation is not None
    assert (calibration.looks, calibration.confidence) == (1, 1 - calibrating.CALIBRATED_DELTA)
    assert calibration.fit == Split(dataset="cifar10", split="calibration", images=IMAGES // 3, seed=0, first=IMAGES)
    assert evaluation.data == Split(dataset="cifar10", split="test", images=TESTED, seed=0, first=TESTED)
    carried = read_attempts(tmp_path / "model_repository")
    assert {attempt.model for attempt in carried.made.values()} == {"baseline-0.25", "average-0.25", "served"}
    assert read_attempts(tmp_path / "runs" / "model_repository").pixels < carried.pixels

    anew = cifar10.Experiment(
        root=root, folder=tmp_path / "runs", results=tmp_path / "results.json", images=TESTED + 1, n=30
    )
    anew.measure_system(cifar10_systems.SYSTEMS["baseline"], 0.25)
    measured = tmp_path / "runs" / "model_repository"
    assert len((measured / "baseline-0.25" / ATTEMPTS_NAME).read_text().splitlines()) == 4, "two lines each time"
    assert len(read_attempts(measured).made) == 2, "the same attempt again, for other figures"
    assert open_model(measured, "baseline-0.25").version == 2
