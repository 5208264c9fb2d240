"""One training loop for every method: SGD, a learning rate schedule, clipping, and no step on a broken loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import nn

from certification.errors import HeatserveError
from training.data import ImageData
from training.images import DataError
from training.method import Loss, Method


class TrainingError(HeatserveError):
    """Training cannot start or cannot go on."""


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """SGD with Nesterov momentum.

    Args:
        epochs: passes over the training images.
        batch_size: images in one step.
        lr: the learning rate at the start.
        decay: "cosine" takes the learning rate to 0 over all steps, "constant" leaves it.
        momentum: of SGD.
        weight_decay: L2 penalty on all weights.
        clip: largest L2 norm of the gradient over all weights; longer ones are scaled down. The heat loss starts with
            gradients that destroy a network in a few steps otherwise.
        cpu_threads: how many of torch's threads to train with; None leaves its setting. Threads that share a tiny
            batch wait for one another: on a busy machine two of them take ten times as long as one.
    """

    epochs: int
    batch_size: int
    lr: float
    decay: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 1.0
    cpu_threads: int | None = None

    def __post_init__(self) -> None:
        _require("epochs", self.epochs, self.epochs >= 1, "a whole number from 1")
        _require("batch_size", self.batch_size, self.batch_size >= 2, "a whole number from 2")
        _require("lr", self.lr, 0 < self.lr < math.inf, "a number above 0")
        _require("decay", self.decay, self.decay in DECAYS, " or ".join(DECAYS))
        _require("momentum", self.momentum, 0 <= self.momentum < 1, "a number from 0 to below 1")
        _require("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "a number from 0")
        _require(
            "cpu_threads", self.cpu_threads, self.cpu_threads is None or self.cpu_threads >= 1, "a whole number from 1"
        )
        _require("clip", self.clip, 0 < self.clip < math.inf, "a number above 0")


def _require(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise TrainingError(f"{name}: expected {expected}, got {value!r}")


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "constant": lambda _progress: 1.0,
}
"""Factor on the learning rate, from the share of steps that is done."""


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
    show_progress: bool = True,
) -> list[EpochMetrics]:
    """Train `network` in place, on the device that it is on; leaves it in eval mode.

    Args:
        method: the loss.
        data: a `train` split: no other one may ever be trained on.
        seed: decides the order of the images and all that the method draws.
        on_epoch: called after each epoch, to write a checkpoint for example.

    Raises:
        TrainingError: the loss or its gradient is no longer finite. That step is not taken.
        DataError: `data` is not a `train` split.
    """
    if data.split != "train":
        raise DataError(f"split: expected train, got {data.split}: those images are kept for calibration and tests")
    device = next(network.parameters()).device
    order = torch.Generator().manual_seed(seed)
    noise = torch.Generator(device).manual_seed(seed)
    optimiser = _sgd(network, optimisation)
    steps = optimisation.epochs * math.ceil(len(data) / optimisation.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: DECAYS[optimisation.decay](done / steps))
    history = []
    with _threads(optimisation.cpu_threads), _progress(steps, show_progress) as report:
        for epoch in range(1, optimisation.epochs + 1):
            network.train()
            meter = _Meter(epoch)
            for images, labels in data.batches(optimisation.batch_size, generator=order):
                images, labels = images.to(device), labels.to(device)
                loss = method(network, images, labels, noise)
                _step(loss, network, optimiser, clip=optimisation.clip, epoch=epoch)
                schedule.step()
                meter.add(loss, len(labels))
                report(meter)
            network.eval()
            history.append(meter.metrics())
            on_epoch(history[-1])
    return history


def _sgd(network: nn.Module, optimisation: Optimisation) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        network.parameters(),
        lr=optimisation.lr,
        momentum=optimisation.momentum,
        nesterov=optimisation.momentum > 0,
        weight_decay=optimisation.weight_decay,
    )


def _step(loss: Loss, network: nn.Module, optimiser: torch.optim.Optimizer, *, clip: float, epoch: int) -> None:
    optimiser.zero_grad()
    loss.total.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
    if not bool(torch.isfinite(norm) & torch.isfinite(loss.total)):
        raise TrainingError(
            f"epoch {epoch}: expected a finite loss and gradient, got a loss of {loss.total.item():.3g} with a "
            f"gradient of norm {norm.item():.3g}; lower the learning rate or the clipping norm. Nothing was written "
            f"since the last whole epoch"
        )
    optimiser.step()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Meter:
    """Sums a loss and its terms over the images of one epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._images = 0
        self._sums: dict[str, float] = {}
        self._start = time.perf_counter()

    def add(self, loss: Loss, images: int) -> None:
        self._images += images
        for name, value in {"loss": loss.total, **loss.terms}.items():
            self._sums[name] = self._sums.get(name, 0.0) + images * value.item()

    def metrics(self) -> EpochMetrics:
        means = {name: total / self._images for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._start
        return EpochMetrics(self.epoch, means.pop("loss"), means, seconds, self._images / seconds)

    def __str__(self) -> str:
        metrics = self.metrics()
        terms = "  ".join(f"{name} {value:.3g}" for name, value in {"loss": metrics.loss, **metrics.terms}.items())
        return f"epoch {self.epoch}  {terms}  {metrics.images_per_second:.0f} img/s"


@contextmanager
def _progress(steps: int, show: bool) -> Iterator[Callable[[_Meter], None]]:
    columns = BarColumn(6), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        task = progress.add_task("", total=steps)
        yield lambda meter: progress.update(task, advance=1, description=str(meter) if show else "")
