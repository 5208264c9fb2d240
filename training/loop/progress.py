"""How a training under way is followed: the loop tells an object that it is handed, and shows nothing itself.

A `certification.progress.Progress` follows items under one description; what matters here is the loss, which changes
with every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from heatserve.training.loop.trainer import EpochMetrics


class TrainingProgress(Protocol):
    """Opened for each training, in the process that leads; what it opens is called after each step."""

    def __call__(self, total: int, done: int, /) -> AbstractContextManager[Callable[[EpochMetrics], None]]:
        """Steps in all, and those that were done before an interruption; then the means of the epoch so far."""
        ...


@contextmanager
def unseen_training(total: int, done: int) -> Iterator[Callable[[EpochMetrics], None]]:  # noqa: ARG001
    """Nothing is shown."""
    yield lambda _metrics: None


@contextmanager
def training_bar(total: int, done: int) -> Iterator[Callable[[EpochMetrics], None]]:
    """A bar on stderr with the loss, its parts and the images per second of the epoch so far."""
    from rich.console import Console  # late: a bare GPU machine trains without
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = BarColumn(8), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda metrics: bar.update(task, advance=1, description=_describe(metrics))


def _describe(metrics: EpochMetrics) -> str:
    terms = "  ".join(f"{name} {value:.3g}" for name, value in {"loss": metrics.loss, **metrics.terms}.items())
    return f"epoch {metrics.epoch}  {terms}  {metrics.images_per_second:.0f} img/s"
