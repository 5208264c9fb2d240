"""The CIFAR-10 experiment on a few random images: every row is measured, once, and shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

import heatserve.benchmarks.cifar10.experiment as cifar10
import heatserve.benchmarks.cifar10.systems as cifar10_systems
from heatserve.benchmarks.cifar10.figure import draw_cifar10
from heatserve.benchmarks.cifar10.systems import SYSTEMS
from heatserve.benchmarks.cifar10.tables import table_cells
from heatserve.benchmarks.records.cifar10 import Cifar10Record, Cifar10Row, FormerCalibration, ShiftCalibration
from heatserve.benchmarks.records.record import read_record
from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.export.card_parts import Calibration
from heatserve.training.checkpoint import load_checkpoint
from heatserve.training.data.cifar10 import CIFAR10_CLASSES
from heatserve.training.loop.optimisation import Optimisation

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "cifar10.json"
QUICK = Optimisation(epochs=1, batch_size=16, lr=0.01, cpu_threads=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10's layout and classes, with noise for images."""
    folder, random = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 1)):
        for name in CIFAR10_CLASSES:
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index:04}.png")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch of everything, of the same systems."""
    systems = {name: replace(system, optimisation=QUICK) for name, system in SYSTEMS.items()}
    for module in (cifar10, cifar10_systems):
        monkeypatch.setattr(module, "SYSTEMS", systems)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_each_system_is_trained_measured_and_shown_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results.json"
    systems = ["baseline", "average"]
    arguments = [
        "experiment",
        "cifar10",
        "--root",
        str(root),
        "--folder",
        str(tmp_path / "runs"),
        "--results",
        str(results),
    ]
    arguments += ["--images", "3", "--n", "20", "--sigma", "0.25"]
    arguments += [part for name in systems for part in ("--system", name)]

    first = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert first.exit_code == 0
    assert f"wrote   {results}; " in first.stderr.splitlines()[-1]
    assert "`heatserve bench pages` renders docs/results/cifar10.md" in first.stderr.splitlines()[-1]
    rows = cifar10.read_rows(results).rows
    assert [row.system for row in rows] == systems
    for row in rows:
        assert row.evaluation.data.images == 3
        assert row.evaluation.monte_carlo.n == 20
        assert row.calibration is None, "four calibration images cannot promise anything"
        assert set(row.evaluation.certified_accuracy.single_pass) == {0.0}
        assert row.epochs == 1
        assert row.training_seconds is not None
        assert row.training_seconds > 0
        assert row.provenance.seed == 0
    average = rows[1]
    assert (average.start, average.labels, average.method) == ("baseline", False, "average")

    written = results.read_bytes()
    again = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert results.read_bytes() == written, "measured again"
    assert json.loads(again.stdout) == json.loads(written)
    assert all(f"{name} (n = 20)" in first.stdout for name in systems)
    figure = (tmp_path / "results-0.25.svg").read_text()
    assert "average (n = 20)" in figure
    draw_cifar10(rows, 0.25, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == figure


def test_the_table_leaves_out_radii_where_nothing_is_certified() -> None:
    kept = read_record(KEPT, Cifar10Record).rows[0]

    def row(n: int, proven: list[float], served: float = 0.0) -> Cifar10Row:
        shares = {"radii": [0.0, 0.2, 0.25, 0.3], "monte_carlo": proven, "single_pass": [0.5, 0.25, served, 0.0]}
        accuracy = kept.evaluation.certified_accuracy.model_copy(update=shares)
        monte_carlo = kept.evaluation.monte_carlo.model_copy(update={"n": n, "alpha": 0.001})
        found = {"smoothed_accuracy": 0.7, "agreement": 0.9, "certified_accuracy": accuracy, "monte_carlo": monte_carlo}
        evaluation = kept.evaluation.model_copy(update=found)
        common: dict[str, Any] = {"labels": True, "epochs": 2, "training_seconds": 90.0, "clean_accuracy": 0.8}
        return replace(kept, system="heat", sigma=0.1, n=n, evaluation=evaluation, **common)

    rows = [row(1000, [0.6, 0.5, 0.0, 0.0]), row(10_000, [0.6, 0.5, 0.4, 0.0])]
    heading, few, many = table_cells(rows, 0.1)
    assert heading[-7:] == ["Certify 0.2", "Certify 0.25", "agree", "pass 0", "pass 0.2", "pass 0.25", "overclaims"]
    assert few[:-1] == ["heat", "yes", "2", "2", "80.0", "70.0", "60.0", "50.0", "–", "90.0", "50.0", "25.0", "0.0"], (
        "1,000 votes prove no more than 0.246, whatever the network"
    )
    seen = kept.evaluation.calibrated
    assert few[-1] == many[-1] == f"{seen.overclaims} of {seen.positive}"
    assert many[6:10] == ["60.0", "50.0", "40.0", "90.0"]
    assert not any("0.25" in column for column in table_cells(rows[:1], 0.1)[0])
    overclaiming = row(1000, [0.6, 0.5, 0.0, 0.0], served=0.1)
    assert "Certify 0.25" in table_cells([overclaiming], 0.1)[0]


def with_backed(row: Cifar10Row) -> Cifar10Row:
    """The row as it is measured now, half of it backed."""
    accuracy = row.evaluation.certified_accuracy
    backed = accuracy.model_copy(update={"backed": tuple(share / 2 for share in accuracy.single_pass)})
    return replace(row, evaluation=row.evaluation.model_copy(update={"certified_accuracy": backed}))


def test_what_certify_backs_stands_beside_what_counts_overclaims(tmp_path: Path) -> None:
    rows = [row for row in read_record(KEPT, Cifar10Record).rows if row.system == "average" and row.sigma == 0.25]
    former, measured = rows[0], replace(with_backed(rows[0]), n=2000)
    heading, without, with_it = table_cells([former, measured], 0.25)
    cells = dict(zip(heading, with_it, strict=True))
    assert float(cells["backed 0"]) == pytest.approx(float(cells["pass 0"]) / 2, abs=0.05)
    assert dict(zip(heading, without, strict=True))["backed 0"] == "–"
    assert not any("backed" in column for column in table_cells([former], 0.25)[0]), "a column of dashes"
    draw_cifar10([former], 0.25, tmp_path / "former.svg")
    draw_cifar10([former, with_backed(replace(former, system="heat"))], 0.25, tmp_path / "both.svg")
    texts = [(tmp_path / name).read_text() for name in ("former.svg", "both.svg")]
    assert "overclaims counted" in texts[0]
    assert ["dotted: without" in text for text in texts] == [False, True]


def test_former_calibrations_are_read_as_such() -> None:
    rows = read_record(KEPT, Cifar10Record).rows
    kinds = {type(row.calibration) for row in rows}
    assert kinds <= {FormerCalibration, ShiftCalibration, Calibration, type(None)}
    former = [row.calibration for row in rows if isinstance(row.calibration, FormerCalibration)]
    assert {one.confidence for one in former} == {0.95}
    with pytest.raises(ValidationError):  # the card's own class is as strict as ever
        Calibration.model_validate(vars(former[0]))


@pytest.mark.usefixtures("quick")
def test_it_takes_any_network_and_replaces_no_results_of_another(root: Path, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net(k): return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, k))\n"
    )
    own, results = f"{tmp_path}/nets.py:net", tmp_path / "results.json"
    experiment = cifar10.Experiment(root=root, folder=tmp_path, results=results, architecture=own)
    baseline = experiment.checkpoint(cifar10_systems.SYSTEMS["baseline"], 0.25)
    assert load_checkpoint(baseline).metadata.architecture == "nets.py:net"
    with pytest.raises(
        HeatserveError, match=r"expected results of cifar_resnet20, got some of nets.py:net, which would"
    ):
        cifar10.Experiment(root=root, folder=tmp_path, results=results)
    with pytest.raises(
        HeatserveError, match=r"expected results of nets.py:net, got some of cifar_resnet20, which would"
    ):
        cifar10.Experiment(root=root, folder=tmp_path, results=KEPT, architecture=own)
    arguments = ["experiment", "cifar10", "--root", str(root), "--folder", str(tmp_path), "--system", "baseline"]
    with pytest.raises(HeatserveError, match="expected results of timm:test_vit"):
        CliRunner().invoke(app, [*arguments, "--architecture", "timm:test_vit"], catch_exceptions=False)


def test_an_unknown_system_is_named(root: Path) -> None:
    with pytest.raises(HeatserveError, match="system: expected baseline, noise"):
        CliRunner().invoke(
            app, ["experiment", "cifar10", "--root", str(root), "--system", "magic"], catch_exceptions=False
        )


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_system_may_start_from_another_which_is_trained_first(root: Path, tmp_path: Path) -> None:
    experiment = cifar10.Experiment(root=root, folder=tmp_path, results=tmp_path / "results.json")
    table4 = experiment.checkpoint(cifar10_systems.SYSTEMS["madry-heat"], 0.25)
    assert load_checkpoint(table4).metadata.parent_sha256 == load_checkpoint(tmp_path / "madry.safetensors").sha256
