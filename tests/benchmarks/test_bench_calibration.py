"""`heatserve bench calibration`, on the committed digits."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from heatserve.cli import app

COMMITTED = Path(__file__).parents[2] / "model_repository"


def test_every_way_stands_beside_certify(tmp_path: Path) -> None:
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
    written = json.loads(out.read_text())
    rows = {(row["promise"], row["alpha"], row["way"]): row for row in written["rows"]}
    assert len(rows) == 2 * 3 * 5
    assert sum("single_pass" in rows[promise, 0.1, "r = 0.25 alone"] for promise in ("conditional", "marginal")) == 2
    assert written["decision_monte_carlo"]["decides"] == 0.25
    assert written["decisions"] == {**written["calibration"], "images": 240, "fit": 80}
    assert "images" in rows["conditional", 0.01, "constant shift"]["refused"]
    made = [row for row in written["rows"] if "refused" not in row]
    assert all(b <= s for row in made for b, s in zip(row["backed"], row["single_pass"], strict=True))
    assert all(b <= c for row in made for b, c in zip(row["backed"], written["certify"], strict=True))
    index = written["radii"].index(0.25)
    shift, score = (rows["conditional", 0.1, way]["single_pass"][index] for way in ("constant shift", "for r = 0.25"))
    assert score > shift
    assert written["calibration"]["split"] == "calibration"
    assert written["test"]["split"] == "test"
