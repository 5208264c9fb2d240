"""Kept results: each file is of the form that the benchmark writes, and what is written is read again."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from heatserve.benchmarks.pages.kept import KeptResults, kept_file, read_kept
from heatserve.benchmarks.records.paper import ATTACKS_FILE, SYSTEMS_FILE
from heatserve.benchmarks.records.record import Machine, Record, RecordError, read_record, to_json, write_record
from heatserve.benchmarks.records.speed import EngineRecord, LatencyRecord

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

NAMES = [field.name for field in fields(KeptResults) if (RESULTS / kept_file(field.name)).exists()]

RENAMED = {
    "certified / plain": "certified_to_plain",
    "fp32 / variant": "fp32_to_variant",
    "heat and naive": "heat_and_naive",
    "naive in both layouts": "naive_in_both_layouts",
}
"""Keys of older files, and what they are called now."""


def numbers(content: Any) -> dict[str, float]:
    """Every number in parsed JSON, by where it stands, in today's names."""
    found: dict[str, float] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{path}/{RENAMED.get(key, key)}")
        elif isinstance(value, list):
            for index, part in enumerate(value):
                walk(part, f"{path}/{index}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = value

    walk(content, "")
    return found


def test_every_kept_file_has_a_kind() -> None:
    files = (path for path in RESULTS.rglob("*.json") if path.name not in (SYSTEMS_FILE, ATTACKS_FILE))
    assert {str(path.relative_to(RESULTS)) for path in files} == {kept_file(name) for name in NAMES}


def test_only_results_that_are_not_kept_yet_may_be_absent(tmp_path: Path) -> None:
    for path in RESULTS.glob("*.json"):
        (tmp_path / path.name).symlink_to(path)
    for name in ("load", "networks", "tiers"):
        (tmp_path / kept_file(name)).unlink(missing_ok=True)
    kept = read_kept(tmp_path)
    assert (kept.load, kept.networks, kept.tiers) == (None, None, None)
    (tmp_path / "latency.json").unlink()
    with pytest.raises(RecordError, match=r"latency\.json: expected the results of a benchmark, found no file"):
        read_kept(tmp_path)


@pytest.fixture(scope="module")
def kept() -> KeptResults:
    return read_kept(RESULTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_file_is_read_whole(name: str, kept: KeptResults) -> None:
    texts = ((RESULTS / kept_file(name)).read_text(), to_json(getattr(kept, name)))
    written, read = (numbers(json.loads(text)) for text in texts)
    lost = {key: value for key, value in written.items() if read.get(key) != value}
    if name == "conformance":  # the totals of an engine follow from its promises
        lost = {key: value for key, value in lost.items() if key.split("/")[-1] not in ("cases", "failures")}
    assert not lost


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    record = read_record(RESULTS / "export.json", EngineRecord)
    write_record(tmp_path / "again.json", record)
    assert read_record(tmp_path / "again.json", EngineRecord) == record


def test_an_older_file_without_a_load_is_read_as_not_noted(tmp_path: Path) -> None:
    made: dict[str, Any] = {"command": "heatserve", "versions": {}, "date": "2026-01-01"}
    path = tmp_path / "old.json"
    path.write_text(json.dumps({**made, "machine": {"processor": "P", "cores": 2, "system": "S"}}))
    assert read_record(path, Record) == Record(**made, machine=Machine(processor="P", cores=2, system="S"))


def test_a_file_of_another_kind_is_refused_by_field(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"tune\.json: expected a LatencyRecord, got .*shapes: Field required"):
        read_record(RESULTS / "tune.json", LatencyRecord)
    with pytest.raises(RecordError, match="expected the results of a benchmark, found no file"):
        read_record(tmp_path / "nothing.json", LatencyRecord)
    content = json.loads((RESULTS / "latency.json").read_text())
    path = tmp_path / "typo.json"
    path.write_text(json.dumps({**content, "wieghts": "random"}))
    with pytest.raises(RecordError, match="wieghts"):
        read_record(path, LatencyRecord)
