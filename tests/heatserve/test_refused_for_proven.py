"""Commands that need a smoothed classifier refuse a model that has none, in one sentence, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import write_tiny_model
from typer.testing import CliRunner

from heatserve.cli import app
from heatserve.export.repository.smoothed import DeterministicError

REFUSED = {
    "calibrate proven": "there is nothing to calibrate; serve it as it is: heatserve serve proven",
    "calibrate-variant proven8 proven": "there is nothing to calibrate; serve it as it is: heatserve serve proven",
    "calibrate-variant proven tiny": "there is nothing to calibrate; serve it as it is: heatserve serve proven",
    "reference proven": "no calibration images that live inputs could be compared with",
    "certify-dataset proven": "no base network votes under noise; to see what its radii are worth: heatserve audit",
    "tiers proven": "votes could prove nothing beyond that; ask the single pass: heatserve predict --model proven",
    "attack proven": "no radius is there to spoof; to see whether attacks within its radii fail: heatserve audit",
    "attack-tiers proven": "no radius is there to spoof; to see whether attacks within its radii fail: heatserve audit",
    "bench certify --root . --model proven": "no base network votes under noise",
    "bench confirm proven": "no base network votes under noise",
    "bench calibration proven": "no base network votes under noise",
    "bench shadow proven": "no base network votes under noise",
    "bench tiers proven": "votes could prove nothing beyond that",
    "bench switch proven": "the faults that are tried here are those of a base graph and a sigma",
}


@pytest.fixture(scope="module")
def repository(proven_repository: Path) -> Path:
    if not (proven_repository / "tiny").exists():
        write_tiny_model(proven_repository)
    return proven_repository


@pytest.mark.parametrize("command", REFUSED)
def test_it_says_what_the_model_is_and_what_to_do(
    command: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    result = CliRunner().invoke(app, [*command.split(), "--repository", str(repository)])
    assert isinstance(result.exception, DeterministicError)
    said = str(result.exception)
    assert "expected a statistical certificate, about a smoothed classifier, got a deterministic one" in said
    assert REFUSED[command] in said
    assert "\n" not in said
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before
    assert list(tmp_path.iterdir()) == []
