"""`python -m heatserve.benchmarks.gpu` with only what a bare GPU machine has, on the CPU with tiny settings."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_machine import BARE, MISSING, needed_by
from PIL import Image

from heatserve.benchmarks.gpu import __main__ as command
from heatserve.benchmarks.gpu.__main__ import INTERRUPTED, UNFINISHED, main
from heatserve.benchmarks.gpu.certify import CERTIFY_WAYS
from heatserve.benchmarks.gpu.heat_step import GPU_STEPS
from heatserve.benchmarks.gpu.machine import GpuMachine, TimeUp, kept_or, write_plain
from heatserve.benchmarks.gpu.trainings import GpuRecipe, train_on_gpu
from heatserve.benchmarks.records.gpu import GpuCertifyRecord, GpuStepsRecord, GpuTrainingRecord
from heatserve.benchmarks.records.record import RecordError, read_record
from heatserve.benchmarks.records.table2 import SpeedRecord
from heatserve.training.checkpoint import load_checkpoint
from heatserve.training.data.cifar10 import CIFAR10_CLASSES
from heatserve.training.loop.signals import stop_signals
from heatserve.training.loop.state import StateError
from heatserve.training.loop.trainer import EpochMetrics

pytestmark = pytest.mark.slow

BARE_MACHINE = Path(__file__).parents[1] / "bare_machine.py"


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty training images and ten test images of noise, in CIFAR-10's layout."""
    folder, random = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 1)):
        for name in CIFAR10_CLASSES:
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, cifar: Path) -> Path:
    """The folder that every part has written to, in one process that lacks everything else."""
    folder = tmp_path_factory.mktemp("gpu")
    usual = ["--device", "cpu", "--out", str(folder)]
    training = [*usual, "--root", str(cifar), "--epochs", "1", "--precision", "float32"]
    parts = [
        ["speed", *usual, "--shape", "digits", "--rounds", "2"],
        ["certify", *usual, "--shape", "digits", "--rounds", "1", "--passes", "200", "--batch-size", "50", "200"],
        ["heat-step", *usual, "--shape", "digits", "--rounds", "1", "--kappa", "2"],
        ["train", "noise", *training, "--architecture", "cifar_resnet20"],
        ["lipschitz", *training, "--architecture", "lipschitz_xs"],
        ["speed", *usual, "--shape", "digits", "--rounds", "2", "--minutes", "0"],  # nothing is left to measure
        ["certify", *usual, "--shape", "cifar10-resnet20", "--minutes", "0"],
    ]
    # The compiler takes minutes here: what is tested is all around it.
    environment = os.environ | {"TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(BARE_MACHINE), json.dumps(parts)]
    ran = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"codes": [0, 0, 0, 0, 0, 0, UNFINISHED], "found": []}, ran.stderr
    assert "unfinished after 0 minutes; the same command goes on" in ran.stderr
    return folder


def test_the_bare_machine_lacks_what_it_should() -> None:
    assert all(importlib.util.find_spec(name) for name in MISSING), "found here, and not by that program"
    assert not needed_by(BARE) & set(MISSING)
    assert {"torch", "numpy", "pillow"} <= needed_by(BARE)


def test_table_2_has_every_engine_that_a_cpu_has(bare: Path) -> None:
    record = read_record(bare / "speed.json", SpeedRecord)
    assert record.command.startswith("python -m heatserve.benchmarks.gpu speed --device cpu")
    assert (record.device, record.device_name, record.rounds) == ("cpu", None, 2)
    digits = record.shapes["digits"]
    assert [*digits.engines] == ["eager", "channels-last", "float16", "bfloat16"]  # CUDA graphs need a GPU
    for pair in digits.engines.values():
        assert min(pair.deterministic.count, pair.stochastic.count) >= 2  # fewer than 20 on a busy machine
        assert pair.ratio.median > 1
    assert digits.votes_in_process_to_grpc is None


def test_certify_has_every_way_at_every_batch_size(bare: Path) -> None:
    record = read_record(bare / "certify.json", GpuCertifyRecord)
    found = {(cell.classifier, cell.way, cell.batch_size): cell for cell in record.cells}
    assert found.keys() == {("digits", way, size) for way in CERTIFY_WAYS for size in (50, 200)}
    assert all(cell.refused is None and (cell.samples_per_second or 0) > 0 for cell in found.values())
    assert record.passes == 200


def test_heat_steps_have_every_precision_compiled_or_not(bare: Path) -> None:
    record = read_record(bare / "heat-step.json", GpuStepsRecord)
    found = {(cell.step, cell.precision, cell.compiled): cell for cell in record.cells}
    assert len(found) == len(record.cells) == 4 * len(GPU_STEPS)
    for cell in record.cells:
        assert cell.refused is None
        assert cell.milliseconds is not None
        assert cell.images_per_second == pytest.approx(1000 * cell.batch_size / cell.milliseconds)
        assert cell.peak_mib is None
    assert record.kappa == 2


def test_trainings_are_noted_and_their_checkpoints_are_heatserves_own(bare: Path) -> None:
    record = read_record(bare / "train.json", GpuTrainingRecord)
    assert [row.system for row in record.rows] == ["baseline", "noise", "lipschitz"]
    for row in record.rows:
        checkpoint = load_checkpoint(bare / row.file)
        assert (row.epochs, row.epochs_done, row.sha256) == (1, 1, checkpoint.sha256)
        assert row.architecture == checkpoint.metadata.architecture
        assert row.accuracy is not None
    noise = load_checkpoint(bare / "noise-0.1.safetensors").metadata
    assert (noise.method, noise.sigma) == ("noise", 0.1)
    assert noise.parent_sha256 == record.rows[0].sha256


def steps_then(act: Callable[[], object], after: int) -> Any:
    """A progress that acts after so many steps."""

    @contextmanager
    def followed(total: int, done: int) -> Iterator[Callable[[EpochMetrics], None]]:  # noqa: ARG001
        steps = []

        def show(metrics: EpochMetrics) -> None:
            steps.append(metrics)
            if len(steps) == after:
                act()

        yield show

    return followed


def test_a_training_that_is_stopped_goes_on_and_ends_as_one_that_was_not(tmp_path: Path, cifar: Path) -> None:
    machine = GpuMachine("cpu", ends=time.monotonic() + 600)
    stop = steps_then(lambda: os.kill(os.getpid(), signal.SIGTERM), after=2)  # as the timer does
    recipe = GpuRecipe(
        folder=tmp_path / "stopped", root=cifar, architecture="cifar_resnet20", epochs=3, precision="float32"
    )
    with pytest.raises(TimeUp):
        train_on_gpu("baseline", replace(recipe, progress=stop), machine)
    (row,) = read_record(recipe.folder / "train.json", GpuTrainingRecord).rows
    assert (row.epochs, row.epochs_done, row.sha256, row.accuracy) == (3, 2, None, None)
    (done,) = train_on_gpu("baseline", recipe, machine).rows
    (whole,) = train_on_gpu("baseline", replace(recipe, folder=tmp_path / "whole"), machine).rows
    assert (done.epochs_done, done.accuracy) == (3, whole.accuracy)
    first, second = (load_checkpoint(folder / whole.file) for folder in (recipe.folder, tmp_path / "whole"))
    for name, tensor in first.network.state_dict().items():
        assert tensor.equal(second.network.state_dict()[name]), name


def test_the_time_ends_a_training_by_the_signal_that_it_knows() -> None:
    with stop_signals() as stopped, GpuMachine("cpu", ends=time.monotonic() + 600).stopping():
        assert not stopped()
    with pytest.raises(TimeUp), GpuMachine("cpu", ends=time.monotonic()).stopping():
        time.sleep(60)  # what happens before the loop of the training, which has no signals of its own
    with GpuMachine("cpu", ends=time.monotonic() + 0.05).stopping(), stop_signals() as stopped:
        while not stopped():
            time.sleep(0.01)


def test_results_of_other_settings_are_measured_anew_and_other_files_are_refused(bare: Path, tmp_path: Path) -> None:
    kept = read_record(bare / "certify.json", GpuCertifyRecord)
    path = tmp_path / "certify.json"
    write_plain(path, kept)
    assert read_record(path, GpuCertifyRecord) == kept
    later = replace(kept, date="later", command="another", cells=())
    assert kept_or(later, path).cells == kept.cells
    for other in (replace(later, passes=7), replace(later, device_name="another"), replace(later, versions={})):
        assert kept_or(other, path).cells == ()
    with pytest.raises(
        RecordError, match=r"certify\.json: expected a GpuTrainingRecord, got weights: expected no such"
    ):
        kept_or(read_record(bare / "train.json", GpuTrainingRecord), path)


def test_files_that_cannot_be_read_or_written_are_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["speed", "--device", "cpu", "--shape", "digits", "--rounds", "1", "--out"]
    (tmp_path / "speed.json").write_bytes(b"\xff")
    assert main([*arguments, str(tmp_path)]) == 1
    assert "speed.json: expected a SpeedRecord in UTF-8, got other bytes" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "speed.json")]) == 1
    assert "expected to be able to write into" in capsys.readouterr().err


def test_mistakes_are_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["speed", "--device", "abacus", "--out", str(tmp_path)]) == 1
    assert "device: expected a device of this machine, got 'abacus'" in capsys.readouterr().err
    arguments = ["train", "noise", "--device", "cpu", "--root", str(tmp_path / "no"), "--out", str(tmp_path)]
    assert main(arguments) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_a_training_that_is_refused_leaves_the_row_of_the_one_that_is_there(tmp_path: Path, cifar: Path) -> None:
    machine = GpuMachine("cpu", ends=time.monotonic() + 600)
    recipe = GpuRecipe(folder=tmp_path, root=cifar, architecture="cifar_resnet20", epochs=1, precision="float32")
    rows = train_on_gpu("baseline", recipe, machine).rows
    with pytest.raises(StateError, match="which differs in epochs; give"):
        train_on_gpu("baseline", replace(recipe, epochs=2), machine)
    assert read_record(tmp_path / "train.json", GpuTrainingRecord).rows == rows


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_a_training_stops_the_loop_around_it_too(
    number: signal.Signals,
    tmp_path: Path,
    cifar: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "_followed", steps_then(lambda: os.kill(os.getpid(), number), after=2))
    recipe = ["--architecture", "cifar_resnet20", "--epochs", "300", "--precision", "float32"]
    arguments = ["train", "baseline", "--device", "cpu", "--root", str(cifar), "--out", str(tmp_path), *recipe]
    assert main(arguments) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted; the same command goes on\n"
    (row,) = read_record(tmp_path / "train.json", GpuTrainingRecord).rows
    assert row.epochs_done == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["certify", "--rounds", "0"],
        ["speed", "--rounds", "-1"],
        ["certify", "--passes", "1"],
        ["certify", "--batch-size", "64", "0"],
        ["heat-step", "--kappa", "0"],
        ["lipschitz", "--root", "x", "--epochs", "0"],
        ["speed", "--minutes", "inf"],
        ["speed", "--minutes", "nan"],
        ["speed", "--seed", "4294967296"],
    ],
)
def test_numbers_that_would_measure_nothing_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--device", "cpu", "--out", str(tmp_path)])
    assert left.value.code == 2
    assert f"got '{arguments[-1]}'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_seconds_of_another_machine_are_not_told_as_those_of_this_one(tmp_path: Path, cifar: Path) -> None:
    machine = GpuMachine("cpu", ends=time.monotonic() + 600)
    recipe = GpuRecipe(folder=tmp_path, root=cifar, architecture="cifar_resnet20", epochs=1, precision="float32")
    record = train_on_gpu("baseline", recipe, machine)
    (here,) = record.rows
    assert here.seconds
    assert train_on_gpu("baseline", recipe, machine).rows == (here,)
    write_plain(tmp_path / "train.json", replace(record, device_name="another GPU"))
    for _ in range(2):
        (there,) = train_on_gpu("baseline", recipe, machine).rows
        assert there == replace(here, seconds=None, images_per_second=None)
