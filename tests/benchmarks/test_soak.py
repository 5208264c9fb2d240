"""`heatserve bench soak`: a server loaded for some seconds, one that is broken, and the page of both."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heatserve.benchmarks.load.setting import random_models
from heatserve.benchmarks.pages.render import PAGES, RESULTS, write_pages
from heatserve.benchmarks.records.record import read_record, write_record
from heatserve.benchmarks.records.soak import SoakRecord, SoakSample
from heatserve.benchmarks.soak.faults import FAULTS, measure_fault
from heatserve.benchmarks.soak.looks import growth_of
from heatserve.cli import app

ROOT = Path(__file__).parents[2]


def sample(minute: float, **rss_mib: float) -> SoakSample:
    return SoakSample(minute=minute, rss_mib=rss_mib, files={}, processes={}, shared_mib=0, temporary_mib=0)


def test_growth_is_from_the_second_quarter_to_the_last_one() -> None:
    warm_up = [sample(0, triton=50.0, front=10.0), sample(1, triton=80.0, front=10.0)]
    flat = [sample(2, triton=100.0, front=10.0), sample(3, triton=100.0, front=11.0)]
    late = [sample(4, triton=100.0, front=12.0)] * 2 + [sample(6, triton=103.0, front=10.0)] * 2
    found = growth_of([*warm_up, *flat, *late])
    assert found == {"triton": pytest.approx(0.03), "front": pytest.approx(10.0 / 10.5 - 1)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")
def test_a_server_is_loaded_and_broken_and_the_page_shows_what_came_of_it(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    command = ["bench", "soak", "digits", "--repository", str(tmp_path), "--minutes", "0.2", "--times", "0"]
    result = CliRunner().invoke(app, [*command, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = read_record(out, SoakRecord)
    assert {heard.protocol for heard in record.heard} == {"grpc", "http"}
    assert [heard.errors for heard in record.heard if heard.errors] == []
    assert sum(heard.answers for heard in record.heard) > 0
    before, after = record.idle
    assert set(before.processes) == {"all", "supervisor", "front", "triton", "stub digits"}
    assert after.processes == before.processes
    assert after.files["all"] == before.files["all"]
    assert record.replaced == 0
    assert len(record.samples) == 4
    what = next(iter(FAULTS))
    with random_models("digits", seed=0) as served:
        row = measure_fault(what, served, times=1)
    assert row.seconds[0] > 0
    assert row.failed > 0
    broken = SoakRecord(**{**vars(record), "faults": (row,)})
    shutil.copytree(ROOT / RESULTS, tmp_path / RESULTS, ignore=shutil.ignore_patterns("*.svg", "*.html", "*.safe*"))
    write_record(tmp_path / RESULTS / "soak.json", broken)
    write_pages(tmp_path)
    page = (tmp_path / PAGES / "soak.md").read_text()
    assert f"| {what} | {row.seconds[0]:.1f} | {row.failed} |" in page
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
