"""One training loop for every method: SGD, a learning rate schedule, clipping, and no step on a broken loss.

It stops at a signal after the step under way and goes on from its state file bit for bit (on a CPU).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heatserve.certification.cores import usable_cores
from heatserve.training.data.splits import ImageData
from heatserve.training.loop.log import Log, log_path
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.loop.progress import TrainingProgress, unseen_training
from heatserve.training.loop.signals import stop_signals
from heatserve.training.loop.state import StateError, lock_path, only_training_of, state_path
from heatserve.training.loop.trainer import LOG_EVERY, EpochMetrics, Trainer, TrainingError
from heatserve.training.methods.protocol import Method

WRITE_EVERY = 20.0
"""Seconds from one checkpoint and state to the next: epochs of a second would be spent on writing otherwise."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after a whole step and, where it has a file for it, with its state written."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a training is run, apart from what decides its result.

    Args:
        device: "cpu", "cuda", ….
        resume: go on from the state file, if there is one.
        tensorboard: folder for TensorBoard's event files.
        progress: shows how far the training has come; by default nothing is shown.
    """

    device: str = "cpu"
    resume: bool = False
    tensorboard: Path | None = None
    progress: TrainingProgress = unseen_training


def fit(
    network: nn.Module,
    method: Method,
    data: ImageData,
    optimisation: Optimisation,
    *,
    seed: int,
    save: Callable[[EpochMetrics], None],
    run: Run | None = None,
    out: Path | None = None,
    recipe: str = "",
    replayable: bool = False,
) -> list[EpochMetrics]:
    """Train `network` in place, on the device that it is on; leaves it in eval mode.

    Args:
        method: the loss.
        data: a `train` split: no other one may ever be trained on.
        seed: decides the order of the images and all that the method draws.
        save: writes a checkpoint after an epoch that had these metrics; called by the process that leads. After the
            first and the last epoch, and after others where `WRITE_EVERY` seconds have passed; so is the state written.
        run: how it is run.
        out: the checkpoint's path; the state and the log are written beside it, `.state` and `.jsonl`. None: nowhere.
        recipe: whatever decides the training, as text: a state of another recipe is refused.
        replayable: a step starts the same kernels every time, and reads no number from the GPU. One process on a GPU
            whose batch size divides the number of images records it once and replays it: where a network is small,
            starting its kernels one by one takes longer than they do.

    Raises:
        TrainingError: `out` has the suffix of a file beside it; the loss explodes; or it or its gradient is no longer
            finite. That step is not taken, or, where it was replayed, not written.
        DataError: `data` is not a `train` split, or it holds a label outside its classes.
        StateError: the state to resume from is damaged, or another training's, or not all processes have it.
        TeamError: another process has ended.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the state is written.
    """
    run = run or Run()
    if out and out.suffix in {path(out).suffix for path in (state_path, log_path, lock_path)}:
        raise TrainingError(
            f"out: expected another suffix than that of the state and the log, or of the lock, beside it, got {out}"
        )
    trainer = Trainer(network, method, data, optimisation, seed, recipe, replayable=replayable)
    with only_training_of(out if trainer.team.leads else None):
        _train_epochs(trainer, save, run, out)
    return [EpochMetrics(**metrics) for metrics in trainer.position.history]


def _train_epochs(trainer: Trainer, save: Callable[[EpochMetrics], None], run: Run, out: Path | None) -> None:
    """From the state, where there is one to resume from, to the last epoch."""
    optimisation, state = trainer.optimisation, state_path(out) if out else None
    if run.resume and state and state.is_file():
        trainer.load(state)
    if len(set(trainer.team.gather(trainer.position.global_step))) > 1:
        raise StateError(
            f"{state}: expected the same state for all processes, found that some lack it: share its folder"
        )
    leads, done, written = trainer.team.leads, trainer.position.global_step, -math.inf
    with (
        _threads(optimisation.cpu_threads),
        stop_signals() as stopped,
        _open_log(out if leads else None, run.tensorboard if leads else None, done) as log,
        (run.progress if leads else unseen_training)(trainer.total_steps, done) as show,
    ):
        while trainer.position.epoch <= optimisation.epochs:
            for stop in trainer.epoch(stopped):
                step = trainer.position.global_step
                show(trainer.metrics())
                if step % LOG_EVERY == 0:
                    log.write("step", global_step=step, epoch=trainer.position.epoch, **trainer.last_terms)
                if stop:
                    raise _interrupted(trainer, state)
            metrics = trainer.finish_epoch()
            log.write("epoch", global_step=trainer.position.global_step, **_flat(metrics))
            due = time.monotonic() - written >= WRITE_EVERY or trainer.position.epoch > optimisation.epochs
            if trainer.team.gather(due)[0]:  # all processes do as the one that leads
                if leads:
                    save(metrics)
                trainer.save(state)
                written = time.monotonic()
        if state and leads:
            state.unlink(missing_ok=True)
        if stopped():  # while the last epoch was written: what was to follow this training does not
            raise Interrupted(f"interrupted after the last epoch: {out} is complete")


def _open_log(out: Path | None, tensorboard: Path | None, global_step: int) -> Log:
    return Log(log_path(out) if out else None, tensorboard, global_step=global_step)


def _flat(metrics: EpochMetrics) -> dict[str, Any]:
    values: Mapping[str, Any] = asdict(metrics)
    return {**{name: value for name, value in values.items() if name != "terms"}, **values["terms"]}


def _interrupted(trainer: Trainer, state: Path | None) -> Interrupted:
    trainer.save(state)
    position = trainer.position
    where = f"epoch {position.epoch}, step {position.step_in_epoch} of {trainer.steps_per_epoch}"
    written = f"the state is in {state}; the same command with --resume goes on from it" if state else "nothing is kept"
    return Interrupted(f"interrupted after {where}: {written}")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or min(before, usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
