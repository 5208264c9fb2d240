"""`heatserve bench calibration`, on the committed digits."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from heatserve.benchmarks.records.calibration import CalibrationRecord, PromisedRow, RefusedRow
from heatserve.benchmarks.records.record import read_record
from heatserve.cli import app

COMMITTED = Path(__file__).parents[2] / "model_repository"


@pytest.mark.slow
def test_every_way_is_compared_with_certify(tmp_path: Path) -> None:
    options = [
        "--repository",
        str(COMMITTED),
        "--images",
        "300",
        "--test-images",
        "40",
        "--n",
        "100",
        "--decisions",
        "240",
        "--decision-n",
        "1000",
        "--test-n",
        "100",
    ]
    out = tmp_path / "calibration.json"
    result = CliRunner().invoke(app, ["bench", "calibration", "digits", *options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "for r = 0.25" in result.stdout
    record = read_record(out, CalibrationRecord)
    rows = {(row.promise, row.alpha, row.way): row for row in record.rows}
    assert len(rows) == 2 * 3 * 5
    for promise in ("conditional", "marginal"):
        assert isinstance(rows[promise, 0.1, "r = 0.25 alone"], PromisedRow)
    assert record.decision_monte_carlo.decides == 0.25
    assert record.decisions == record.calibration.model_copy(update={"images": 240, "fit": 80})
    refused = rows["conditional", 0.01, "constant shift"]
    assert isinstance(refused, RefusedRow)
    assert "images" in refused.refused
    made = [row for row in record.rows if isinstance(row, PromisedRow)]
    assert all(b <= s for row in made for b, s in zip(row.backed, row.single_pass, strict=True))
    assert all(b <= c for row in made for b, c in zip(row.backed, record.certify, strict=True))
    index = record.radii.index(0.25)
    shift, score = (
        record.promised("conditional", 0.1, way).single_pass[index] for way in ("constant shift", "for r = 0.25")
    )
    assert score > shift
    assert record.calibration.split == "calibration"
    assert record.test.split == "test"
