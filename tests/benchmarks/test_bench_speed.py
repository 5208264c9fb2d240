"""`heatserve bench latency`, `front` and `export` on the digits: every way is timed; the file says how it was made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_model import write_tiny_model
from typer.testing import CliRunner

from heatserve.benchmarks.front import BYTES, CLIENT_GRPC, CLIENT_HTTP, GRPC, JSON, TRITON
from heatserve.benchmarks.latency import _set_threads
from heatserve.benchmarks.pages.render import RESULTS, render_pages
from heatserve.benchmarks.records.front import FrontRecord
from heatserve.benchmarks.records.record import read_record
from heatserve.benchmarks.records.speed import EngineRecord, LatencyRecord
from heatserve.cli import app
from heatserve.export.repository.layout import CONFIG_NAME, open_model
from heatserve.export.repository.settings import THREADS, read_config, vote_settings

ROOT = Path(__file__).parents[2]


def test_the_server_computes_on_as_many_threads_as_the_ways_beside_it(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    _set_threads(open_model(tmp_path, "tiny"), 3)
    config = read_config(tmp_path / "tiny" / CONFIG_NAME)
    assert config.parameters[THREADS].string_value == "3"
    assert vote_settings(config).threads == 3


@pytest.mark.slow  # starts Triton
def test_every_way_to_answer_an_image_is_timed(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    arguments = ["bench", "latency", "digits", "--requests", "10", "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = read_record(out, LatencyRecord)
    assert result.stdout == out.read_text()
    assert record.seed == 0
    assert record.machine.load_average is not None
    digits = record.shapes["digits"]
    assert digits.requests["plain"] == digits.requests["certified"] == 10
    p50 = {way: times.p50 for way, times in digits.milliseconds.items()}
    assert list(p50) == ["plain", "certified", "grpc", "http", "stochastic"]
    for ratio in ("certified / plain", "stochastic / grpc"):  # one round: the ratio of its medians
        way, base = ratio.split(" / ")
        assert digits.ratios[ratio].p50 == pytest.approx(p50[way] / p50[base])
    assert p50["plain"] < p50["grpc"]
    assert p50["plain"] < p50["stochastic"]


@pytest.mark.slow
def test_the_front_is_timed_beside_grpc(tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(ROOT / RESULTS, results)
    out = results / "front.json"
    arguments = ["bench", "front", "digits", "--requests", "10", "--out", str(out)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = read_record(out, FrontRecord).shapes["digits"]
    assert [*found.milliseconds] == [GRPC, BYTES, JSON, TRITON, CLIENT_GRPC, CLIENT_HTTP]
    expected = found.milliseconds[BYTES].p50 - found.milliseconds[GRPC].p50  # one round: the difference of its medians
    assert found.above[f"{BYTES} − {GRPC}"].p50 == pytest.approx(expected)
    assert found.cpu_microseconds > 0
    assert f"{expected:.2f} ms more through the front than over gRPC" in render_pages(results)["front.md"]


@pytest.mark.slow
def test_every_variant_is_timed_and_absent_engines_are_named(tmp_path: Path) -> None:
    out = tmp_path / "export.json"
    arguments = ["bench", "export", "digits", "--variant", "fp32", "--variant", "uint8", "--batch", "2"]
    result = CliRunner().invoke(app, [*arguments, "--requests", "20", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "renders docs/results/cost.md" in result.stderr.splitlines()[-1]
    record = read_record(out, EngineRecord)
    present = [engine for engine in ("CPU", "CUDA", "TensorRT") if engine not in record.absent]
    assert "CPU" in present
    for engine, why in record.absent.items():
        assert f"{engine} absent: {why}"[:60] in result.output
    rows = record.shapes["digits"]
    assert [(row.engine, row.variant) for row in rows] == [(e, v) for v in ("fp32", "uint8") for e in present]
    for row in rows:
        assert (row.batch, row.requests) == (2, 20)
        assert 1 < row.certified_to_plain.p50 < 10  # a tiny network: the certificate is most of it
    assert rows[0].fp32_to_variant is not None
    assert rows[0].fp32_to_variant.p50 == 1
