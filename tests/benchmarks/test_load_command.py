"""`heatserve bench load` as a whole, on the digits: what it writes, what its page shows, and how it is interrupted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heatserve.benchmarks.load.server_use import look_at_server
from heatserve.benchmarks.load.targets import targets_of
from heatserve.benchmarks.pages.render import PAGES, RESULTS, write_pages
from heatserve.benchmarks.records.load import LoadRecord, RequestKind
from heatserve.benchmarks.records.record import read_record
from heatserve.cli import app

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_command_measures_a_model_and_its_floors_and_the_page_shows_them(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    others = [name for name in ("wrk", "hey") if shutil.which(name)]
    command = ["bench", "load", "digits", "--repository", str(tmp_path), "--seconds", "0.2", "--out", str(out)]
    for name in others:
        command += ["--third-party", name]
    result = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stdout == out.read_text()
    record = read_record(out, LoadRecord)
    found = record.shapes["digits"]
    assert [one.batch for one in found.raw] == [1, 2, 4, 8, 16, 32, 64]
    heard = [one for row in (*found.closed, *found.opened) for one in row.heard]
    kinds = {(one.tier, one.protocol, one.input, one.images) for one in heard}
    assert kinds == {
        ("one pass", "grpc", "FP32", 1),
        ("one pass", "http", "FP32", 1),
        ("one pass", "grpc", "UINT8", 1),
        ("one pass", "grpc", "FP32", 8),
        ("identity", "grpc", "FP32", 1),
    }
    assert sum(one.answers for one in heard) > 1000
    assert [one.errors for one in heard if one.errors] == []
    assert {kind for row in found.closed for kind in row.server} == {
        "triton",
        "stub digits",
        "stub digits-uint8",
        "stub digits-identity",
    }
    assert max(use.cores for row in found.closed for use in row.server.values()) > 0.05
    again = targets_of(
        architecture=found.architecture,
        kind=RequestKind(tier="one pass", protocol="grpc", input="FP32", images=1),
        raw=found.raw,
        raw_single=found.raw_single,
        closed=found.closed,
        opened=found.opened,
        mixes=found.mixes,
        third_party=found.third_party,
    )
    assert found.targets == again
    assert [row.name for row in found.third_party] == others
    assert "arrive a second" in out.with_suffix(".svg").read_text()
    check_page(record, out, tmp_path)


def check_page(record: LoadRecord, out: Path, folder: Path) -> None:
    shutil.copytree(ROOT / RESULTS, folder / RESULTS, ignore=shutil.ignore_patterns("*.svg", "*.html", "*.safe*"))
    shutil.copy(out, folder / RESULTS / "load.json")
    write_pages(folder)
    page = (folder / PAGES / "load.md").read_text()
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert f"`{record.command}`" in page
    for target in record.shapes["digits"].targets:
        assert f"| {target.name} | {target.found:.3f} |" in page


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_at_once_and_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    temporary, kept = tmp_path / "temporary", tmp_path / "load.json"
    temporary.mkdir()
    command = [sys.executable, "-m", "heatserve", "bench", "load", "digits", "--repository", str(tmp_path)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [*command, "--seconds", "5", "--out", str(kept)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as running:
        deadline = time.monotonic() + 90
        while not any("tritonserver" in kind or kind == "triton" for kind in kinds_below(running.pid)):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(1)
        below = look_at_server(running.pid, apart=frozenset()).kinds
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
    assert running.returncode not in (0, -number)
    assert "Traceback" not in said
    deadline = time.monotonic() + 20  # one that ends since a pipe of ours closed may take a moment
    while alive := [process for process in below if not process.look().is_dead]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)
    assert list(temporary.glob("heatserve-*")) == []
    assert not kept.exists()


def kinds_below(pid: int) -> set[str]:
    return {*look_at_server(pid, apart=frozenset()).kinds.values()}
