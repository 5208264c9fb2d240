"""Table 2: ratios and their intervals, every way of every engine, and what the page says of cells that were not run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import heatserve.benchmarks.paper.speed as speed
import heatserve.commands.paper_speed as paper_speed
from heatserve.benchmarks.classifiers import CLASSIFIERS, PREDICT_VOTES
from heatserve.benchmarks.pages.render import RESULTS, render_pages
from heatserve.benchmarks.paper.eager import eager_votes
from heatserve.benchmarks.paper.pairs import median_ratio, speed_pair
from heatserve.benchmarks.paper.published import TABLE_2
from heatserve.benchmarks.paper.speed import SPEED_CLASSIFIERS, measure_speed
from heatserve.benchmarks.records.gpu import (
    GpuCertifyRecord,
    GpuStepsRecord,
    GpuTraining,
    GpuTrainingRecord,
    SamplesCell,
    StepCell,
)
from heatserve.benchmarks.records.line import LineRecord
from heatserve.benchmarks.records.record import made_now, read_record, write_record
from heatserve.benchmarks.records.table2 import ClassifierSpeed, MedianRatio, Seconds, SpeedPair, SpeedRecord
from heatserve.benchmarks.torch_votes import torch_votes
from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.commands.paper_speed import measure_without_data
from heatserve.export.runtime.timing import Times

ROOT = Path(__file__).parents[2]


def rounds_of(*medians: float) -> Times:
    """One round for each median, of three requests."""
    return [[0.5 * median, median, 3 * median] for median in medians]


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    ones = rounds_of(*[1.0] * 20)
    found = median_ratio(rounds_of(*range(20, 0, -1)), ones)
    # P(X ≤ 5) for X ~ Binomial(20, 1/2) is 0.0207, P(X ≤ 6) 0.0577: the sixth ratio from either end
    assert (found.median, found.low, found.high, found.rounds) == (10.5, 6, 15, 20)
    assert found.confidence == pytest.approx(1 - 2 * 21700 / 2**20)
    few = median_ratio(rounds_of(3, 1, 2), ones[:3])
    assert (few.median, few.low, few.high) == (2, 1, 3)  # not enough for 0.95: all of them
    assert few.confidence == pytest.approx(1 - 2 / 2**3)
    assert median_ratio(rounds_of(4), rounds_of(2)) == MedianRatio(median=2, low=2, high=2, confidence=0, rounds=1)


def test_an_interval_holds_the_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held, confidence = 0, 1.0
    for _ in range(400):
        ratios = random.lognormal(0.3, 1.0, 12)
        found = median_ratio([[value] for value in ratios], [[1.0]] * 12)
        held += found.low <= np.exp(0.3) <= found.high
        confidence = found.confidence
    assert confidence >= 0.95
    assert held / 400 >= 0.93


def test_a_ratio_is_of_medians_of_a_round_and_seconds_are_of_all_requests() -> None:
    pair = speed_pair(rounds_of(1, 100), rounds_of(7, 700))
    assert (pair.ratio.median, pair.ratio.low) == (7, 7)
    assert pair.deterministic.count == 6
    assert pair.deterministic.p50 == pytest.approx(np.median([0.5, 1, 3, 50, 100, 300]) / 1000)


def test_votes_are_as_many_as_passes_and_go_to_the_class_that_is_likelier() -> None:
    class Linear(torch.nn.Module):
        seen = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            Linear.seen += len(images)
            total = images.flatten(1).mean(1)
            return torch.stack([0.5 - total, total - 0.5], 1)

    torch.manual_seed(0)
    bright, dark = torch.full((1, 1, 4, 4), 0.6), torch.full((1, 1, 4, 4), 0.4)
    counts = torch_votes(Linear(), bright, 1000, sigma=0.4, num_classes=3, batch_size=300)
    assert (int(counts.sum()), int(counts[2]), Linear.seen) == (1000, 0, 1000)
    # The mean of 16 pixels has the standard deviation 0.1: it is above 0.5 with probability Φ(1) = 0.841
    assert int(counts[1]) == pytest.approx(841, abs=50)
    assert [int(eager_votes(Linear(), image, 50, 3)) for image in (bright, dark)] == [1, 0]


def test_another_data_set_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(
        HeatserveError, match="data: expected one of digits, cifar10, imagenet for Table 2, got 'photos'"
    ):
        measure_speed("photos")
    assert (
        {name for names in SPEED_CLASSIFIERS.values() for name in names} == CLASSIFIERS.keys() == PREDICT_VOTES.keys()
    )


@pytest.mark.slow  # starts Triton
def test_the_command_measures_every_engine_both_ways_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "SPEED_ROUNDS", 1)
    folder = tmp_path / "digits"
    arguments = ["paper", "--part", "speed", "--part", "line", "--results", str(folder), "--seed", "3"]
    first = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    record = read_record(folder / "speed.json", SpeedRecord)
    digits = record.shapes["digits"]
    assert record.seed == 3
    assert [*digits.engines] == ["torch", "onnxruntime", "grpc"]
    assert digits.n0 == 100
    for pair in digits.engines.values():
        assert min(pair.deterministic.p25, pair.stochastic.p25, pair.ratio.median) > 0
    for engine in ("torch", "onnxruntime"):  # twenty times, without a server
        assert digits.engines[engine].deterministic.p50 < digits.engines[engine].stochastic.p50
    assert digits.votes_in_process_to_grpc is not None
    line = read_record(tmp_path / "line.json", LineRecord)
    for shown in (f"{digits.engines['grpc'].ratio.median:.1f}", f"{line.line.printed.steps[5].distance:.3f}"):
        assert shown in first.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "line.json", "line.svg", "line-plane.svg"}

    again = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    found = json.loads(again.stdout)
    assert read_record(folder / "speed.json", SpeedRecord) == record, "measured again"
    assert found["speed"]["date"] == record.date
    assert found["line"]["line"]["at"] == -0.5


def seconds(value: float) -> Seconds:
    return Seconds(p25=value, p50=value, p75=value, count=10)


def test_a_whole_table_of_other_settings_is_replaced_only_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = SPEED_CLASSIFIERS["cifar10"]
    shapes = {name: speed_of(50, "torch", "onnxruntime", "grpc") for name in names}
    write_record(tmp_path / "speed.json", speed_record("cpu", shapes))
    before = (tmp_path / "speed.json").read_bytes()
    monkeypatch.setattr(paper_speed, "_line", lambda *_, **__: (None, "no lines here"))
    assert measure_without_data(None, "cifar10", tmp_path, seed=5)[1] == ["no lines here"]
    assert (tmp_path / "speed.json").read_bytes() == before
    write_record(tmp_path / "speed.json", speed_record("cpu", {names[0]: shapes[names[0]]}))
    assert not speed.is_measured("cifar10", tmp_path / "speed.json")


def speed_of(ratio: float, *engines: str) -> ClassifierSpeed:
    found = MedianRatio(median=ratio, low=ratio - 1, high=ratio + 1, confidence=0.96, rounds=20)
    pair = SpeedPair(deterministic=seconds(0.01), stochastic=seconds(0.01 * ratio), ratio=found)
    served = found if "grpc" in engines else None
    return ClassifierSpeed(
        architecture="a",
        input_shape=(3, 32, 32),
        n0=100,
        engines=dict.fromkeys(engines, pair),
        votes_in_process_to_grpc=served,
    )


def speed_record(device: str, shapes: dict[str, ClassifierSpeed]) -> SpeedRecord:
    name = "Some GPU" if device == "cuda" else None
    made = vars(made_now(seed=0))
    return SpeedRecord(**made, sigma=0.25, rounds=20, threads=1, device=device, device_name=name, shapes=shapes)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The kept results without those of Table 2 and of a GPU."""
    folder = tmp_path / RESULTS
    shutil.copytree(ROOT / RESULTS, folder, ignore=shutil.ignore_patterns("*.svg", "*.html", "*.safe*", "speed.json"))
    shutil.rmtree(folder / "gpu", ignore_errors=True)
    return folder


def test_cells_say_not_run_until_their_file_is_there(results: Path) -> None:
    assert "speed.md" not in render_pages(results)
    cpu = {"cifar10-resnet34": speed_of(50, "torch", "onnxruntime", "grpc")}
    write_record(results / "cifar10" / "speed.json", speed_record("cpu", cpu))
    page = render_pages(results)["speed.md"]
    assert "| PyTorch, eager | `cifar10-resnet34` | 0.0100 | 0.5000 | 50.0 | 49.0 to 51.0 |" in page
    assert page.count("| not run |") == 5  # ResNet-20, ResNet-50, and all on a GPU
    for part in ("speed", "certify", "heat-step", "train"):
        assert f"`{part}`: not run." in page
    for column in TABLE_2:
        assert f"| the paper |  | {column.deterministic:.4f} | {column.stochastic:.4f} |" in page
    assert "5.1 times as much. Every one is at least 4 times the paper's." in page


def test_a_ratio_that_falls_short_of_the_reach_is_named(results: Path) -> None:
    cpu = {
        "cifar10-resnet34": speed_of(50, "torch", "onnxruntime", "grpc"),
        "cifar10-resnet20": speed_of(20, "torch", "grpc"),
    }
    cpu["cifar10-resnet20"] = replace(cpu["cifar10-resnet20"], votes_in_process_to_grpc=None)
    write_record(results / "cifar10" / "speed.json", speed_record("cpu", cpu))
    page = " ".join(render_pages(results)["speed.md"].split())
    assert "the smallest ratio beside the paper's is that of `cifar10-resnet20` in PyTorch, eager: 20.0" in page
    assert "Less than 4 times the paper's: `cifar10-resnet20` in PyTorch, eager (2.0)." in page


def test_files_of_a_gpu_fill_the_cells(results: Path) -> None:
    shapes = {name: speed_of(8, "eager", "cuda-graph") for name in ("cifar10-resnet34", "imagenet-resnet50")}
    write_record(results / "cifar10" / "speed.json", speed_record("cpu", {}))
    gpu = results / "gpu"
    write_record(gpu / "speed.json", speed_record("cuda", shapes))
    device = {**vars(made_now(seed=0)), "device": "cuda", "device_name": "Some GPU"}
    sample = SamplesCell(classifier="digits", way="certify", batch_size=8192, samples_per_second=123456.7, refused=None)
    none = replace(sample, batch_size=4, samples_per_second=None, refused="OutOfMemoryError: too much")
    write_record(gpu / "certify.json", GpuCertifyRecord(**device, passes=20_000, runs=3, cells=(sample, none)))
    step = StepCell(
        classifier="digits",
        step="heat",
        precision="bfloat16",
        compiled=True,
        batch_size=128,
        milliseconds=12.3,
        images_per_second=10406.5,
        peak_mib=2048.0,
        refused=None,
    )
    steps = GpuStepsRecord(**device, sigma=0.25, kappa=10, runs=10, cells=(step, replace(step, milliseconds=None)))
    write_record(gpu / "heat-step.json", steps)
    row = GpuTraining(
        system="heat-paper",
        architecture="cifar_resnet34",
        file="heat-paper-0.1.safetensors",
        epochs=1000,
        epochs_done=40,
        seconds=321.4,
        images_per_second=5000.0,
        sha256=None,
        accuracy=None,
    )
    done = replace(row, system="baseline", epochs_done=1000, sha256="a" * 64, accuracy=0.931)
    elsewhere = replace(done, system="noise", seconds=None, images_per_second=None)
    write_record(gpu / "train.json", GpuTrainingRecord(**device, data="cifar10", rows=(row, done, elsewhere)))
    page = render_pages(results)["speed.md"]
    assert "| CUDA graph | `imagenet-resnet50` | 0.0100 | 0.0800 | 8.0 | 7.0 to 9.0 |" in page
    assert page.count("On Some GPU.") == 4
    assert "| `digits` | certify | 8,192 | 123,457 |" in page
    assert "| `digits` | certify | 4 | not run |" in page
    assert "`digits`, certify, 4: OutOfMemoryError: too much" in page
    assert "| `digits` | heat | bfloat16 | yes | 128 | 12.3 | 10,406 | 2,048 MiB |" in page
    assert "| `digits` | heat | bfloat16 | yes | 128 | not run | not run | not run |" in page
    assert "| `heat-paper` | `cifar_resnet34` | 1,000 | 40 | 321 | 5,000 | – |" in page
    assert "| `baseline` | `cifar_resnet34` | 1,000 | 1,000 | 321 | 5,000 | 93.1 |" in page
    assert "| `noise` | `cifar_resnet34` | 1,000 | 1,000 | – | – | 93.1 |" in page
