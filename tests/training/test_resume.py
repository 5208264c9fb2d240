"""Stopping and going on: a training that was killed or interrupted ends with the very same bits."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import typer
from small_training import (
    Crash,
    DisturbedImages,
    crash,
    digits_network,
    few_digits,
    log_records,
    raise_signal,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from typer.testing import CliRunner

from heatserve.cli import app
from heatserve.commands.train.run import interruptible
from heatserve.training.checkpoint import load_checkpoint
from heatserve.training.data.images import Images
from heatserve.training.data.splits import ImageData
from heatserve.training.loop.fitting import Interrupted, Run, fit
from heatserve.training.loop.log import log_path
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.loop.signals import stop_signals
from heatserve.training.loop.state import StateError, lock_path, only_training_of, state_path
from heatserve.training.loop.trainer import LOG_EVERY
from heatserve.training.methods.cross_entropy import CrossEntropy
from heatserve.training.methods.parameters import AverageParameters, HeatParameters, Parameters
from heatserve.training.train import train_baseline, train_from

RESUMED = Run(resume=True)


QUICK = Optimisation(epochs=2, batch_size=16, lr=0.05, cpu_threads=1)
"""Six steps an epoch of the 96 images."""


LONG = replace(QUICK, epochs=3, batch_size=2)
"""48 steps an epoch: `LOG_EVERY` = 50 lies in the second."""


@pytest.fixture(scope="module")
def few() -> ImageData:
    return few_digits()


@pytest.fixture(scope="module")
def baseline(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "baseline.safetensors"
    return train_baseline(few, "digits_cnn", out=out, optimisation=QUICK)


def _train(
    data: ImageData, out: Path, optimisation: Optimisation = QUICK, *, seed: int = 0, run: Run | None = None
) -> Path:
    return train_baseline(data, "digits_cnn", out=out, optimisation=optimisation, seed=seed, run=run)


def _interrupted(few: ImageData, out: Path, at: int = 9) -> Path:
    """The state of a training that was stopped after step `at`."""
    with pytest.raises(Interrupted):
        _train(replace(few, images=DisturbedImages(few.images, at, raise_signal(signal.SIGTERM))), out)
    return out.with_suffix(".state")


def _without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("seconds", "images_per_second")
    return [{name: value for name, value in record.items() if name not in times} for record in records]


def _steps(records: list[dict[str, Any]], kind: str) -> list[int]:
    return [record["steps"] for record in records if record["kind"] == kind]


def _assert_same_training(found: Path, expected: Path) -> None:
    """The same tensors bit for bit, in all checkpoints that a training writes, the same log, and no state left."""
    for suffix in (".safetensors", ".base.safetensors", ".step1.safetensors"):
        paths = [path.with_name(path.stem + suffix) for path in (found, expected)]
        assert paths[0].exists() == paths[1].exists()
        if paths[0].exists():
            tensors, wanted = map(safetensors.torch.load_file, paths)
            assert tensors.keys() == wanted.keys()
            assert all(torch.equal(tensors[name], wanted[name]) for name in wanted), suffix
    assert _without_times(log_records(found)) == _without_times(log_records(expected))
    assert not list(found.parent.glob("*.state"))


def _invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["train", *arguments, "--device", "cpu"], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
def test_a_training_killed_at_a_random_moment_goes_on_bit_for_bit(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    killed, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    command = ["baseline", "--data", "digits", "--architecture", "digits_cnn", "--epochs", "5", "--batch-size", "32"]
    process = subprocess.Popen(
        [sys.executable, "-m", "heatserve", "train", *command, "--device", "cpu", "--out", str(killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        state = killed.with_suffix(".state")
        deadline = time.monotonic() + 120
        while not state.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(random.Random(seed).uniform(0, 2) * log_records(killed)[0]["seconds"])
    finally:
        process.kill()
    assert process.wait() in (-signal.SIGKILL, 0)  # 0: it became so fast that nothing is left to resume
    assert load_checkpoint(killed).metadata.epochs >= 1
    code, stdout, stderr = _invoke(*command, "--out", str(killed), "--resume")
    assert code == 0, stderr
    assert "of 400 images" in stdout
    _invoke(*command, "--out", str(whole))
    _assert_same_training(killed, whole)
    records = log_records(killed)
    assert _steps(records, "step") == [50, 100]
    assert _steps(records, "epoch") == [29, 58, 87, 116, 145]
    assert [record["steps"] for record in records] == sorted(record["steps"] for record in records)


@pytest.mark.parametrize(
    ("parameters", "augment", "number", "at", "where"),
    [
        (None, True, signal.SIGTERM, 3, "epoch 1, step 3 of 6"),
        (HeatParameters(sigma=0.25, kappa=2), True, signal.SIGINT, 6, "epoch 1, step 6 of 6"),
        (HeatParameters(sigma=0.25, kappa=2, time_steps=2), False, signal.SIGTERM, 16, "epoch 1, step 4 of 6"),
        (AverageParameters(sigma=0.25), False, signal.SIGINT, 9, "epoch 2, step 3 of 6"),
    ],
    ids=["baseline", "heat", "heat in time steps", "average"],
)
def test_a_signal_stops_after_the_step_and_resume_goes_on_bit_for_bit(
    parameters: Parameters | None,
    augment: bool,
    number: signal.Signals,
    at: int,
    where: str,
    few: ImageData,
    baseline: Path,
    tmp_path: Path,
) -> None:
    stopped, whole = tmp_path / "stopped.safetensors", tmp_path / "whole.safetensors"
    optimisation = replace(QUICK, augment=augment)
    handler = signal.getsignal(number)

    def train(out: Path, images: Images, run: Run | None = None) -> None:
        data = replace(few, images=images)
        if parameters is None:
            _train(data, out, optimisation, run=run)
        else:
            train_from(baseline, data, parameters, out=out, optimisation=optimisation, run=run)

    images = DisturbedImages(few.images, at, raise_signal(number))
    with pytest.raises(Interrupted) as caught:
        train(stopped, images)
    assert str(caught.value) == (
        f"interrupted after {where}: the state is in {stopped.with_suffix('.state')}; "
        f"the same command with --resume goes on from it"
    )
    assert len(images.handed_out) == at
    assert signal.getsignal(number) is handler
    rest, all_of_them = DisturbedImages(few.images), DisturbedImages(few.images)
    train(stopped, rest, RESUMED)
    train(whole, all_of_them)
    assert at + len(rest.handed_out) == len(all_of_them.handed_out)
    _assert_same_training(stopped, whole)


@pytest.fixture
def python_handles_sigint() -> Iterator[None]:
    """As in a terminal; a process that was started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_sigint")
def test_a_second_signal_ends_the_training_at_once(few: ImageData, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    images = DisturbedImages(few.images, 3, twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        _train(replace(few, images=images), tmp_path / "a.safetensors")
    assert not isinstance(caught.value, Interrupted)
    assert len(images.handed_out) == 3
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("resume", [False, True])
def test_two_trainings_do_not_write_one_checkpoint(few: ImageData, tmp_path: Path, resume: bool) -> None:
    out, said = tmp_path / "a.safetensors", list[str]()

    def another() -> None:
        with pytest.raises(StateError) as error:
            train_baseline(few, "digits_cnn", out=out, optimisation=QUICK, seed=1, run=Run(resume=resume))
        said.append(str(error.value))

    _train(replace(few, images=DisturbedImages(few.images, 3, another)), out)
    assert said == [
        f"{out}: expected one training with this --out, found that another one is running; wait for it, or give "
        "another --out"
    ]
    assert load_checkpoint(out).metadata.seed == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "a.jsonl"}


def test_the_lock_that_a_kill_leaves_holds_nobody_up(few: ImageData, tmp_path: Path) -> None:
    lock_path(tmp_path / "a.safetensors").touch()
    _train(few, tmp_path / "a.safetensors")
    assert not lock_path(tmp_path / "a.safetensors").exists()


def test_a_link_in_the_place_of_a_lock_makes_no_file_elsewhere(few: ImageData, tmp_path: Path) -> None:
    lock_path(tmp_path / "a.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        _train(few, tmp_path / "a.safetensors")
    assert not (tmp_path / "elsewhere").exists()


def test_who_waited_for_a_lock_that_was_removed_takes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, lock = tmp_path / "a.safetensors", fcntl.flock
    held = ExitStack()

    def removed_meanwhile(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        lock_path(out).unlink()
        held.enter_context(only_training_of(out))
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with held, pytest.raises(StateError, match="another one is running"), only_training_of(out):
        pass


@pytest.mark.parametrize(("rank", "said"), [("0", "interrupted: the state is in x\n"), ("1", "")])
def test_one_process_of_a_team_says_that_it_was_interrupted(
    rank: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(typer.Exit) as exit_, interruptible():
        raise Interrupted("interrupted: the state is in x")
    assert exit_.value.exit_code == 130
    assert capsys.readouterr().err == said


def test_signal_handlers_are_not_touched_in_another_thread() -> None:
    """Python allows handlers in the main thread only: a training elsewhere goes on, and its owner stops it."""
    answers: list[bool] = []
    handlers = []

    def body() -> None:
        with stop_signals() as stopped:
            handlers.append(signal.getsignal(signal.SIGTERM))
            answers.append(stopped())

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert answers == [False]
    assert handlers == [before]


def test_the_end_of_the_terminal_stops_unless_it_is_ignored() -> None:
    """As `nohup` has it ignored."""
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, stops in ((signal.default_int_handler, True), (signal.SIG_IGN, False)):
            signal.signal(signal.SIGHUP, handler)
            with stop_signals() as stopped:
                signal.raise_signal(signal.SIGHUP)
                assert stopped() == stops
            assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_training_without_a_file_says_that_nothing_is_kept(few: ImageData) -> None:
    network = digits_network()
    data = replace(few, images=DisturbedImages(few.images, 2, raise_signal(signal.SIGTERM)))
    with pytest.raises(Interrupted, match="interrupted after epoch 1, step 2 of 6: nothing is kept"):
        fit(network, CrossEntropy(), data, QUICK, seed=0, save=lambda _: None)


def test_the_state_of_another_training_is_refused(few: ImageData, baseline: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    state = _interrupted(few, out)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    others: list[Callable[[], Path]] = [
        lambda: _train(few, out, seed=1, run=RESUMED),
        lambda: _train(few, out, replace(QUICK, lr=0.04), run=RESUMED),
        lambda: train_from(baseline, few, HeatParameters(sigma=0.5, kappa=1), out=out, optimisation=QUICK, run=RESUMED),
    ]
    for other in others:
        with pytest.raises(StateError, match=f"^{state}: belongs to another training; .* without --resume"):
            other()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    _train(few, out, run=RESUMED)


def test_a_state_file_keeps_the_names_that_older_ones_have(few: ImageData, tmp_path: Path) -> None:
    """In a Position they are `step_in_epoch` and `global_step`."""
    position = torch.load(_interrupted(few, tmp_path / "a.safetensors", at=9))["position"]
    assert (position["epoch"], position["step"], position["steps"]) == (2, 3, 9)


def test_a_damaged_state_is_refused(few: ImageData, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    state = _interrupted(few, out)
    content = state.read_bytes()
    middle = len(content) // 2
    damaged = [content[:size] for size in (0, 1, 4, 100, middle, len(content) - 1)]
    damaged += [random.Random(seed).randbytes(100) for seed in range(20)]
    for bytes_ in damaged:
        state.write_bytes(bytes_)
        with pytest.raises(StateError, match=f"^{state}: expected the state of a training, but it cannot be read"):
            _train(few, out, run=RESUMED)
    state.write_bytes(content)
    _train(few, out, run=RESUMED)


def test_resuming_what_is_finished_returns_at_once(few: ImageData, baseline: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    heat = HeatParameters(sigma=0.5, kappa=1, time_steps=2)

    def train(data: ImageData, run: Run) -> None:
        _train(data, first, run=run)
        train_from(baseline, data, heat, out=second, optimisation=QUICK, run=run)

    train(few, RESUMED)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    images = DisturbedImages(few.images, 1, crash)
    first.with_suffix(".state").write_bytes(b"left by a kill after the last checkpoint")
    train(replace(few, images=images), RESUMED)
    assert images.handed_out == []
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(Crash):
        train(replace(few, images=images), Run())


def test_what_another_training_ended_with_is_left_alone(few: ImageData, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    _train(few, out)
    before = out.read_bytes()
    with pytest.raises(StateError, match=f"^{out}: .* a network of another one, which differs in lr; give"):
        _train(few, out, replace(QUICK, lr=0.04), run=RESUMED)
    with pytest.raises(StateError, match="which differs in epochs; give"):
        _train(few, out, replace(QUICK, epochs=QUICK.epochs + 1), run=RESUMED)
    assert out.read_bytes() == before
    _train(few, out, replace(QUICK, lr=0.04), run=Run())
    assert out.read_bytes() != before


def test_a_fresh_start_over_other_time_steps_goes_on_to_the_end(few: ImageData, baseline: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "a.safetensors", tmp_path / "whole.safetensors"
    heat = HeatParameters(sigma=0.5, kappa=1, time_steps=3)
    other = replace(heat, delta=0.2)
    train_from(baseline, few, heat, out=out, optimisation=QUICK)
    stopping = replace(few, images=DisturbedImages(few.images, 1, raise_signal(signal.SIGTERM)))
    with pytest.raises(Interrupted):
        train_from(baseline, stopping, other, out=out, optimisation=QUICK)
    train_from(baseline, few, other, out=out, optimisation=QUICK, run=RESUMED)
    train_from(baseline, few, other, out=whole, optimisation=QUICK)
    first, second = (load_checkpoint(path).network.state_dict() for path in (out, whole))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_time_steps_that_were_never_begun_replace_nothing(few: ImageData, baseline: Path, tmp_path: Path) -> None:
    out, heat = tmp_path / "a.safetensors", HeatParameters(sigma=0.5, kappa=1, time_steps=2)
    before = _train(few, out).read_bytes()
    with pytest.raises(StateError, match=f"^{out}: .* a network of another one"):
        train_from(baseline, few, heat, out=out, optimisation=QUICK, run=RESUMED)
    assert out.read_bytes() == before


def test_two_trainings_whose_names_end_in_numbers_have_states_and_logs_of_their_own() -> None:
    paths = [Path("runs", f"lr0.{number}") for number in (1, 2)]
    assert state_path(paths[0]) != state_path(paths[1])
    assert log_path(paths[0]) != log_path(paths[1])
    assert state_path(Path("net.safetensors")) == Path("net.state")


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Everything that TensorBoard shows of a folder: (step, value) by name."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [(event.step, event.value) for event in accumulator.Scalars(name)] for name in names}


def test_records_of_steps_that_a_crash_has_lost_are_written_once(few: ImageData, tmp_path: Path) -> None:
    """In the log and on TensorBoard: the crash comes in the third epoch, the state is that of the first."""
    crashed, whole, board = tmp_path / "crashed.safetensors", tmp_path / "whole.safetensors", tmp_path / "board"
    with pytest.raises(Crash):
        _train(
            replace(few, images=DisturbedImages(few.images, 110, crash)),
            crashed,
            LONG,
            run=Run(tensorboard=board),
        )
    assert [(record["kind"], record["steps"]) for record in log_records(crashed)] == [
        ("epoch", 48),
        ("step", LOG_EVERY),
        ("epoch", 96),
        ("step", 2 * LOG_EVERY),
    ]
    with crashed.with_suffix(".jsonl").open("a") as log:
        log.write('{"kind": "st')  # lines that the crash of a whole machine may leave
    with crashed.with_suffix(".jsonl").open("ab") as log:
        log.write(b"\0\xff\n")
    _train(few, crashed, LONG, run=replace(RESUMED, tensorboard=board))
    _train(few, whole, LONG)
    _assert_same_training(crashed, whole)
    records, scalars = log_records(crashed), _scalars(board)
    assert _steps(records, "step") == [50, 100]
    assert _steps(records, "epoch") == [48, 96, 144]
    for kind in ("step", "epoch"):
        for name in ("loss", "accuracy", "epoch"):
            found = scalars[f"{kind}/{name}"]
            assert [step for step, _ in found] == _steps(records, kind)
            expected = [record[name] for record in records if record["kind"] == kind]
            assert [value for _, value in found] == pytest.approx(expected, rel=1e-6)
    assert [step for step, _ in scalars["epoch/images_per_second"]] == [48, 96, 144]


def test_the_command_writes_for_tensorboard_and_a_fresh_start_begins_a_new_log(tmp_path: Path) -> None:
    out, board = tmp_path / "a.safetensors", tmp_path / "board"
    command = ["baseline", "--data", "digits", "--architecture", "digits_cnn", "--out", str(out), "--epochs", "1"]
    for _ in range(2):
        code, _, stderr = _invoke(*command, "--batch-size", "128", "--tensorboard", str(board))
        assert code == 0, stderr
        assert [(record["kind"], record["steps"]) for record in log_records(out)] == [("epoch", 8)]
    assert _scalars(board)["epoch/loss"][-1][1] == pytest.approx(log_records(out)[0]["loss"], rel=1e-6)
