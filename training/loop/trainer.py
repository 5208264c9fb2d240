"""One training under way: what a step does, what is measured, and what a state file keeps of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heatserve.certification.errors import HeatserveError
from heatserve.training.architectures.network import memory_format_of
from heatserve.training.data.errors import DataError
from heatserve.training.data.splits import ImageData, batch_count
from heatserve.training.loop.distributed import join
from heatserve.training.loop.optimisation import DECAYS, Optimisation
from heatserve.training.loop.replayed import Replayed, read_ahead
from heatserve.training.loop.state import Position, read_state, write_state
from heatserve.training.methods.protocol import Method

LOG_EVERY = 50
"""Steps between two records of the log."""
EXPLODED = 100.0
"""A loss has exploded when its running mean is this many times the largest of the first `LOG_EVERY` steps' losses."""


class TrainingError(HeatserveError):
    """Training cannot start or cannot go on."""


@dataclass(frozen=True)
class EpochMetrics:
    """Means over the images of one epoch."""

    epoch: int
    loss: float
    terms: dict[str, float]
    seconds: float
    images_per_second: float


class Trainer:
    """One training under way: the network and everything else that a step changes."""

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        data: ImageData,
        optimisation: Optimisation,
        seed: int,
        recipe: str,
        *,
        replayable: bool = False,
    ) -> None:
        if data.split != "train":
            raise DataError(f"split: expected train, got {data.split}: those images are kept for calibration and tests")
        self.network, self.method, self.data, self.optimisation = network, method, data, optimisation
        self.seed, self.recipe = seed, recipe
        self.device = next(network.parameters()).device
        self.memory_format = memory_format_of(network)
        network.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.team = join(self.device)
        self.team.begin_alike(network)
        self.order = torch.Generator().manual_seed(seed)
        self.noise = torch.Generator(self.device).manual_seed(seed + 1_000_003 * self.team.rank)
        self.epoch_start = self.order.get_state()
        self.optimiser = _sgd(network, optimisation)
        self.steps_per_epoch = batch_count(len(data), optimisation.batch_size)
        self.total_steps = optimisation.epochs * self.steps_per_epoch
        smallest = len(data) // max(1, self.steps_per_epoch)
        if smallest < self.team.size:
            raise TrainingError(
                f"batch_size: expected an image of every batch for each of {self.team.size} processes, got batches of "
                f"{smallest}"
            )
        self.replayed = Replayed(self._whole_step, self.noise) if replayable and self._can_replay() else None
        self.rate = torch.tensor(optimisation.lr, device=self.device)
        """The learning rate where a recorded step reads it."""
        self.position = Position()
        self.last_terms: dict[str, float] = {}
        """The terms of the last step's loss, means over its images."""

    def epoch(self, stopped: Callable[[], bool]) -> Iterator[bool]:
        """Take the steps of this epoch that are left; after each, whether to stop (as soon as any process was told)."""
        self.network.train()
        self.epoch_start = self.order.get_state()
        batches = self.data.batches(
            self.optimisation.batch_size,
            generator=self.order,
            skip=self.position.step_in_epoch,
            share=self.team.share,
        )
        begun = time.perf_counter() - self.position.seconds
        for images, labels in batches if self.replayed is None else read_ahead(batches):
            stop = self._step(images, labels, stopped())
            self.position.seconds = time.perf_counter() - begun
            yield stop

    def _step(self, images: Tensor, labels: Tensor, stop: bool) -> bool:
        _check_labels(labels, len(self.data.class_names))
        images = images.to(self.device, memory_format=self.memory_format)
        if self.replayed is not None:
            return self._replay(self.replayed, images, labels.to(self.device), stop)
        self.optimiser.zero_grad()
        with self._precision(), self._drawing():
            terms = self.method(self.network, images, labels.to(self.device), self.noise)
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        scalars = torch.stack([*terms.values(), torch.tensor(float(stop), device=self.device)])
        averages, count = self.team.average(gradients, scalars, images=len(images))
        *means, stopping = averages.tolist()
        self.last_terms = dict(zip(terms, means, strict=True))
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.optimisation.clip)
        self._check(norm.item())
        self._set_learning_rate()
        self.optimiser.step()
        self._count(count)
        return bool(stopping > 0)

    def _set_learning_rate(self) -> None:
        progress = self.position.global_step / self.total_steps
        rate = self.optimisation.lr * DECAYS[self.optimisation.decay](progress)
        if self.replayed is not None:
            self.rate.fill_(rate)
        for group in self.optimiser.param_groups:  # each time: a state, of another device perhaps, brings its own
            group["lr"], group["fused"] = (rate, None) if self.replayed is None else (self.rate, True)

    def _can_replay(self) -> bool:
        """All batches have one size, and no process waits for another between the gradient and the step."""
        whole = len(self.data) % self.optimisation.batch_size == 0
        return self.device.type == "cuda" and self.team.size == 1 and whole

    def _whole_step(self, images: Tensor, labels: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        self.optimiser.zero_grad()
        with self._precision():
            terms = self.method(self.network, images, labels, self.noise)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.optimisation.clip)
        self.optimiser.step()
        return terms, norm

    def _replay(self, replayed: Replayed, images: Tensor, labels: Tensor, stop: bool) -> bool:
        """A step that is looked at only after it was taken."""
        self._set_learning_rate()
        terms, norm = replayed(images, labels)
        *means, length = torch.stack([*terms.values(), norm]).tolist()
        self.last_terms = dict(zip(terms, means, strict=True))
        self._check(length)
        self._count(len(images))
        return stop

    def _precision(self) -> Any:
        if self.optimisation.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """While this is open, what the network draws (dropout) follows from seed, process and step."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed + 1_000_003 * self.team.rank + self.position.global_step)
            yield

    def _check(self, norm: float) -> None:
        position, loss = self.position, self.last_terms["loss"]
        advice = "lower the learning rate or the clipping norm. The last checkpoint that was written is kept"
        if not math.isfinite(norm) or not math.isfinite(loss):
            raise TrainingError(
                f"epoch {position.epoch}: expected a finite loss and gradient, got a loss of {loss:.3g} with a "
                f"gradient of norm {norm:.3g}; {advice}"
            )
        running, worst = position.running_loss, position.worst_loss
        if position.global_step > LOG_EVERY and running > EXPLODED * max(worst, 1e-6):
            raise TrainingError(
                f"epoch {position.epoch}: expected a loss of the order of its first steps, at most {worst:.3g}, got a "
                f"running mean of {running:.3g}; {advice}"
            )

    def _count(self, images: int) -> None:
        position, loss = self.position, self.last_terms["loss"]
        position.running_loss = loss if position.global_step == 0 else 0.9 * position.running_loss + 0.1 * loss
        if position.global_step < LOG_EVERY:
            position.worst_loss = max(position.worst_loss, abs(loss))
        position.step_in_epoch += 1
        position.global_step += 1
        position.images += images
        for name, value in self.last_terms.items():
            position.sums[name] = position.sums.get(name, 0.0) + images * value

    def metrics(self) -> EpochMetrics:
        """Means over the images of this epoch so far."""
        position = self.position
        means = {name: total / position.images for name, total in position.sums.items()}
        rate = position.images / position.seconds
        return EpochMetrics(position.epoch, means.pop("loss"), means, position.seconds, rate)

    def finish_epoch(self) -> EpochMetrics:
        """Go on to the next epoch, with the network in eval mode."""
        self.team.average_statistics(self.network)
        self.network.eval()
        metrics = self.metrics()
        self.position.history.append(asdict(metrics))
        self.position.begin_next_epoch()
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
            write_state(path, self._recipe, self.position, tensors)
        self.team.gather(None)  # none may end, or look for the state, before it is written

    def load(self, path: Path) -> None:
        """Go on from a state."""
        self.position, tensors = read_state(path, self._recipe)
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
