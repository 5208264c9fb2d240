"""`heatserve bench lipschitz` and `bench kinds` on digits: the curve is the log's, what is proven the graph's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_lipschitz import export_tiny_lipschitz, train_tiny_lipschitz
from typer.testing import CliRunner

from heatserve.benchmarks.lipschitz import draw_lipschitz_training
from heatserve.benchmarks.records.kinds import KindsRecord
from heatserve.benchmarks.records.lipschitz import LipschitzTrainingRecord
from heatserve.benchmarks.records.record import read_record
from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.export.calibration.sampling import sample
from heatserve.export.repository.layout import open_model
from heatserve.export.runtime.served import open_served

IMAGES = 50
MODELS = Path(__file__).parents[2] / "model_repository"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny_lipschitz(tmp_path_factory.mktemp("runs") / "lipschitz.safetensors")


def bench(*arguments: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments, "--images", str(IMAGES)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "renders docs/results/kinds.md" in result.stderr.splitlines()[-1]


def test_the_curve_is_the_logs_and_the_end_is_proven(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "lipschitz.json"
    bench("lipschitz", str(checkpoint), "--out", str(out))
    record = read_record(out, LipschitzTrainingRecord)
    lines = [json.loads(line) for line in checkpoint.with_suffix(".jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [epoch.certified for epoch in record.epochs] == [line["certified"] for line in epochs]
    assert record.epochs[-1].seconds == pytest.approx(sum(line["seconds"] for line in epochs), abs=0.1)
    model = export_tiny_lipschitz(checkpoint, tmp_path / "models")
    assert record.graph_sha256 == model.card.graph_sha256
    data = sample("digits", "test", count=IMAGES)
    outputs = open_served(model)(data.images)
    right = outputs["label"] == data.labels
    assert record.accuracy == pytest.approx(right.mean())
    for radius, share in zip(record.radii, record.certified, strict=True):
        assert share == pytest.approx((right & (outputs["certified_radius"] >= np.float32(radius))).mean())
    label = "test images, certified within"
    assert f"{label} 36/255: {100 * record.certified[0]:.1f} %" in out.with_suffix(".svg").read_text()
    for epsilon, drawn in ((0.25, f"{label} 0.25: {100 * record.certified[3]:.1f} %"), (0.3, None)):
        draw_lipschitz_training(replace(record, hyperparameters={"epsilon": epsilon}), tmp_path / "other.svg")
        text = (tmp_path / "other.svg").read_text()
        assert drawn in text if drawn else label not in text, "no figure of another radius than its label says"


def test_a_log_that_does_not_fit_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    copied, log = tmp_path / checkpoint.name, tmp_path / "lipschitz.jsonl"
    copied.write_bytes(checkpoint.read_bytes())
    with pytest.raises(HeatserveError, match=r"lipschitz.jsonl: expected the log of 2 epochs, .* has, got 0"):
        bench("lipschitz", str(copied))
    lines = checkpoint.with_suffix(".jsonl").read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]))
    with pytest.raises(HeatserveError, match=r"lipschitz.jsonl: expected the log of 2 epochs, .* has, got 1"):
        bench("lipschitz", str(copied))
    log.write_text("".join(lines).replace("certified", "agreement"))
    with pytest.raises(HeatserveError, match=r"lipschitz.jsonl: expected the log of `train lipschitz`"):
        bench("lipschitz", str(copied))


def test_each_kind_has_a_row_and_votes_prove_on_the_first_images(tmp_path: Path) -> None:
    out = tmp_path / "kinds.json"
    bench("kinds", "digits_lipschitz", "digits", "--repository", str(MODELS), "--proofs", "3", "--out", str(out))
    record = read_record(out, KindsRecord)
    found = [(row.model, row.kind, row.way, row.data.images) for row in record.rows]
    assert found == [
        ("digits_lipschitz", "deterministic", "one pass", IMAGES),
        ("digits", "statistical", "one pass", IMAGES),
        ("digits", "statistical", "confirm", 3),
        ("digits", "statistical", "certify", 3),
    ]
    data = sample("digits", "test", count=IMAGES)
    for row in record.rows[:2]:
        outputs = open_served(open_model(MODELS, row.model))(data.images)
        right = outputs["label"] == data.labels
        assert row.accuracy == pytest.approx(right.mean())
        for radius, share in zip(record.radii, row.certified, strict=True):
            assert share == pytest.approx((right & (outputs["certified_radius"] >= np.float32(radius))).mean())
    assert 1 < record.rows[2].passes < record.rows[3].passes == 1100
