"""One training loop for every method: SGD, a learning rate schedule, clipping, and no step on a broken loss.

It stops at a signal after the step under way and goes on from its state file bit for bit (on a CPU).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from heatserve.certification.errors import HeatserveError
from heatserve.training.data.images import DataError
from heatserve.training.data.splits import ImageData
from heatserve.training.loop.distributed import join
from heatserve.training.loop.log import Log
from heatserve.training.loop.optimisation import DECAYS, Optimisation
from heatserve.training.loop.signals import stop_signals
from heatserve.training.loop.state import Position, read_state, write_state
from heatserve.training.methods.protocol import Method

LOG_EVERY = 50
"""Steps between two records of the log."""
EXPLODED = 100.0
"""A loss has exploded when its running mean is this many times the largest of the first `LOG_EVERY` steps' losses."""


class TrainingError(HeatserveError):
    """Training cannot start or cannot go on."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after a whole step and, where it has a file for it, with its state written."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a training is run, apart from what decides its result.

    Args:
        device: "cpu", "cuda", ….
        resume: go on from the state file, if there is one.
        tensorboard: folder for TensorBoard's event files.
        show_progress: a progress bar on stderr.
    """

    device: str = "cpu"
    resume: bool = False
    tensorboard: Path | None = None
    show_progress: bool = True


@dataclass(frozen=True)
class EpochMetrics:
    """Means over the images of one epoch."""

    epoch: int
    loss: float
    terms: dict[str, float]
    seconds: float
    images_per_second: float


def fit(
    network: nn.Module,
    method: Method,
    data: ImageData,
    optimisation: Optimisation,
    *,
    seed: int,
    on_epoch: Callable[[EpochMetrics], None],
    run: Run | None = None,
    out: Path | None = None,
    recipe: str = "",
) -> list[EpochMetrics]:
    """Train `network` in place, on the device that it is on; leaves it in eval mode.

    Args:
        method: the loss.
        data: a `train` split: no other one may ever be trained on.
        seed: decides the order of the images and all that the method draws.
        on_epoch: called after each epoch by the process that leads, to write a checkpoint for example.
        run: how it is run.
        out: the checkpoint's path; the state and the log are written beside it, `.state` and `.jsonl`. None: nowhere.
        recipe: whatever decides the training, as text: a state of another recipe is refused.

    Raises:
        TrainingError: the loss explodes, or it or its gradient is no longer finite. That step is not taken.
        DataError: `data` is not a `train` split, or it holds a label outside its classes.
        StateError: the state to resume from is damaged, or another training's.
        Interrupted: SIGINT or SIGTERM came; the state is written.
    """
    if data.split != "train":
        raise DataError(f"split: expected train, got {data.split}: those images are kept for calibration and tests")
    run = run or Run()
    trainer = _Trainer(network, method, data, optimisation, seed, recipe)
    state = out.with_suffix(".state") if out else None
    if run.resume and state and state.is_file():
        trainer.load(state)
    total = optimisation.epochs * trainer.steps_per_epoch
    team, log = trainer.team, out.with_suffix(".jsonl") if out else None
    with (
        _threads(optimisation.cpu_threads),
        stop_signals() as stopped,
        Log(log if team.leads else None, run.tensorboard if team.leads else None, steps=trainer.at.steps) as writer,
        _progress(total, run.show_progress and team.leads, done=trainer.at.steps) as report,
    ):
        while trainer.at.epoch <= optimisation.epochs:
            for stop in trainer.epoch(stopped):
                report(trainer.metrics())
                if trainer.at.steps % LOG_EVERY == 0:
                    writer.write("step", steps=trainer.at.steps, epoch=trainer.at.epoch, **trainer.last)
                if stop:
                    raise _interrupted(trainer, state)
            metrics = trainer.finish_epoch()
            writer.write("epoch", steps=trainer.at.steps, **_flat(metrics))
            if team.leads:
                on_epoch(metrics)
            trainer.save(state)
        if state and team.leads:
            state.unlink(missing_ok=True)
        if stopped():  # while the last epoch was written: what was to follow this training does not
            raise Interrupted(f"interrupted after the last epoch: {out} is complete")
    return [EpochMetrics(**metrics) for metrics in trainer.at.history]


class _Trainer:
    """One training under way: everything that a step changes."""

    def __init__(
        self, network: nn.Module, method: Method, data: ImageData, optimisation: Optimisation, seed: int, recipe: str
    ) -> None:
        self.network, self.method, self.data, self.optimisation = network, method, data, optimisation
        self.recipe = recipe
        self.device = next(network.parameters()).device
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.team = join(self.device)
        self.order = torch.Generator().manual_seed(seed)
        self.noise = torch.Generator(self.device).manual_seed(seed + 1_000_003 * self.team.rank)
        self.epoch_start = self.order.get_state()
        self.optimiser = _sgd(network, optimisation)
        self.steps_per_epoch = math.ceil(len(data) / optimisation.batch_size)
        smallest = len(data) // max(1, self.steps_per_epoch)
        if smallest < self.team.size:
            raise TrainingError(
                f"batch_size: expected an image of every batch for each of {self.team.size} processes, got batches of "
                f"{smallest}"
            )
        self.at = Position()
        self.last: dict[str, float] = {}

    def epoch(self, stopped: Callable[[], bool]) -> Iterator[bool]:
        """Take the steps of this epoch that are left; after each, whether to stop (as soon as any process was told)."""
        self.network.train()
        self.epoch_start = self.order.get_state()
        batches = self.data.batches(
            self.optimisation.batch_size, generator=self.order, skip=self.at.step, share=self.team.share
        )
        begun = time.perf_counter() - self.at.seconds
        for images, labels in batches:
            stop = self._step(images, labels, stopped())
            self.at.seconds = time.perf_counter() - begun
            yield stop

    def _step(self, images: Tensor, labels: Tensor, stop: bool) -> bool:
        _check_labels(labels, len(self.data.class_names))
        images = images.to(self.device, memory_format=torch.channels_last)
        self.optimiser.zero_grad()
        with self._precision():
            terms = self.method(self.network, images, labels.to(self.device), self.noise)
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        scalars = torch.stack([*terms.values(), torch.tensor(float(stop), device=self.device)])
        averages, count = self.team.average(gradients, scalars, images=len(images))
        *means, stopping = averages.tolist()
        self.last = dict(zip(terms, means, strict=True))
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.optimisation.clip)
        self._check(norm.item())
        progress = self.at.steps / (self.optimisation.epochs * self.steps_per_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = self.optimisation.lr * DECAYS[self.optimisation.decay](progress)
        self.optimiser.step()
        self._count(count)
        return bool(stopping > 0)

    def _precision(self) -> Any:
        if self.optimisation.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _check(self, norm: float) -> None:
        loss = self.last["loss"]
        advice = "lower the learning rate or the clipping norm. The checkpoint of the last whole epoch is kept"
        if not math.isfinite(norm) or not math.isfinite(loss):
            raise TrainingError(
                f"epoch {self.at.epoch}: expected a finite loss and gradient, got a loss of {loss:.3g} with a "
                f"gradient of norm {norm:.3g}; {advice}"
            )
        running, worst = self.at.running_loss, self.at.worst_loss
        if self.at.steps > LOG_EVERY and running > EXPLODED * max(worst, 1e-6):
            raise TrainingError(
                f"epoch {self.at.epoch}: expected a loss of the order of its first steps, at most {worst:.3g}, got a "
                f"running mean of {running:.3g}; {advice}"
            )

    def _count(self, images: int) -> None:
        at, loss = self.at, self.last["loss"]
        at.running_loss = loss if at.steps == 0 else 0.9 * at.running_loss + 0.1 * loss
        if at.steps < LOG_EVERY:
            at.worst_loss = max(at.worst_loss, abs(loss))
        at.step, at.steps, at.images = at.step + 1, at.steps + 1, at.images + images
        for name, value in self.last.items():
            at.sums[name] = at.sums.get(name, 0.0) + images * value

    def metrics(self) -> EpochMetrics:
        """Means over the images of this epoch so far."""
        at = self.at
        means = {name: total / at.images for name, total in at.sums.items()}
        return EpochMetrics(at.epoch, means.pop("loss"), means, at.seconds, at.images / at.seconds)

    def finish_epoch(self) -> EpochMetrics:
        """Go on to the next epoch, with the network in eval mode."""
        self.team.average_statistics(self.network)
        self.network.eval()
        metrics, at = self.metrics(), self.at
        at.history.append(asdict(metrics))
        at.epoch, at.step, at.images, at.seconds, at.sums = at.epoch + 1, 0, 0, 0.0, {}
        self.epoch_start = self.order.get_state()
        return metrics

    def save(self, path: Path | None) -> None:
        """Write the state; called by all processes together."""
        statistics = [buffer.cpu() for buffer in self.network.buffers()]  # differ until the epoch ends
        own = self.team.gather({"noise": self.noise.get_state(), "statistics": statistics})
        if path is not None and self.team.leads:
            tensors = {
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "order": self.epoch_start,
                "own": own,
            }
            write_state(path, self._recipe, self.at, tensors)
        self.team.gather(None)  # none may end, or look for the state, before it is written

    def load(self, path: Path) -> None:
        """Go on from a state."""
        self.at, tensors = read_state(path, self._recipe)
        self.network.load_state_dict(tensors["network"])
        self.optimiser.load_state_dict(tensors["optimiser"])
        self.order.set_state(tensors["order"])
        own = tensors["own"][self.team.rank]
        self.noise.set_state(own["noise"])
        for buffer, value in zip(self.network.buffers(), own["statistics"], strict=True):
            buffer.copy_(value)

    @property
    def _recipe(self) -> str:
        return f"{self.recipe} in {self.team.size} processes"


def _sgd(network: nn.Module, optimisation: Optimisation) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        network.parameters(),
        lr=optimisation.lr,
        momentum=optimisation.momentum,
        nesterov=optimisation.momentum > 0,
        weight_decay=optimisation.weight_decay,
    )


def _check_labels(labels: Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"labels: expected 0 to {classes - 1}, got {low if low < 0 else high}")


def _flat(metrics: EpochMetrics) -> dict[str, Any]:
    values: Mapping[str, Any] = asdict(metrics)
    return {**{name: value for name, value in values.items() if name != "terms"}, **values["terms"]}


def _interrupted(trainer: _Trainer, state: Path | None) -> Interrupted:
    trainer.save(state)
    where = f"epoch {trainer.at.epoch}, step {trainer.at.step} of {trainer.steps_per_epoch}"
    written = f"the state is in {state}; the same command with --resume goes on from it" if state else "nothing is kept"
    return Interrupted(f"interrupted after {where}: {written}")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress(steps: int, show: bool, *, done: int) -> Iterator[Callable[[EpochMetrics], None]]:
    columns = BarColumn(6), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        task = progress.add_task("", total=steps, completed=done)
        yield lambda metrics: progress.update(task, advance=1, description=_describe(metrics) if show else "")


def _describe(metrics: EpochMetrics) -> str:
    terms = "  ".join(f"{name} {value:.3g}" for name, value in {"loss": metrics.loss, **metrics.terms}.items())
    return f"epoch {metrics.epoch}  {terms}  {metrics.images_per_second:.0f} img/s"
