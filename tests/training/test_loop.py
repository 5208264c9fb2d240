"""The loop: what it measures, when it stops, and what it tells of a training under way."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from small_training import DisturbedImages, digits_network, few_digits, log_records, raise_signal
from torch import Tensor, nn
from torch.nn import functional

from heatserve.training.data.errors import DataError
from heatserve.training.data.images import Images, TensorImages
from heatserve.training.data.splits import ImageData
from heatserve.training.loop import fitting
from heatserve.training.loop.fitting import Interrupted, Run, fit
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.loop.progress import training_bar
from heatserve.training.loop.trainer import EpochMetrics, TrainingError
from heatserve.training.methods.cross_entropy import CrossEntropy
from heatserve.training.methods.parameters import ParameterError
from heatserve.training.methods.protocol import Method, Terms, backward, batch_accuracy
from heatserve.training.train import train_baseline

QUICK = Optimisation(epochs=2, batch_size=16, lr=0.05, cpu_threads=1)
"""Six steps an epoch of the 96 images."""
LONG = replace(QUICK, epochs=3, batch_size=2)
"""48 steps an epoch: `LOG_EVERY` = 50 lies in the second."""


@pytest.fixture(scope="module")
def few() -> ImageData:
    return few_digits()


def _train(
    data: ImageData, out: Path, optimisation: Optimisation = QUICK, *, seed: int = 0, run: Run | None = None
) -> Path:
    return train_baseline(data, "digits_cnn", out=out, optimisation=optimisation, seed=seed, run=run)


@dataclass(frozen=True)
class _Breaks:
    """Cross entropy until `epoch_length` steps have been taken, then a loss or a gradient that is not finite."""

    steps: list[int]
    epoch_length: int
    spoil: Callable[[Tensor], Tensor]

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:  # noqa: ARG002
        logits = network(images)
        loss = functional.cross_entropy(logits, labels)
        self.steps.append(1)
        spoilt = loss if len(self.steps) <= self.epoch_length else self.spoil(loss)
        return backward(spoilt, accuracy=batch_accuracy(logits, labels))


def _fit(network: nn.Module, method: Method, data: ImageData, save: Callable[[EpochMetrics], None]) -> None:
    optimisation = replace(QUICK, epochs=3, batch_size=32)
    fit(network, method, data, optimisation, seed=0, save=save)


@pytest.mark.parametrize(
    "spoil", [lambda total: total * torch.nan, lambda total: total + torch.inf, lambda total: (total - total).sqrt()]
)
def test_a_broken_loss_stops_before_the_step(few: ImageData, spoil: Callable[[Tensor], Tensor]) -> None:
    network = digits_network()
    epochs: list[EpochMetrics] = []
    with pytest.raises(TrainingError, match=r"epoch 2: expected a finite loss and gradient"):
        _fit(network, _Breaks([], 3, spoil), few, epochs.append)
    assert [metrics.epoch for metrics in epochs] == [1]
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


def test_each_epoch_is_measured(few: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "WRITE_EVERY", 0.0)
    epochs: list[EpochMetrics] = []
    modes: list[bool] = []
    network, threads = digits_network(), torch.get_num_threads()

    def seen(metrics: EpochMetrics) -> None:
        epochs.append(metrics)
        modes.append(network.training)

    _fit(network, CrossEntropy(), few, seen)
    assert torch.get_num_threads() == threads
    assert modes == [False] * 3  # a checkpoint may be measured as it is written
    assert [metrics.epoch for metrics in epochs] == [1, 2, 3]
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].terms["accuracy"] > epochs[0].terms["accuracy"]
    assert all(metrics.images_per_second == pytest.approx(96 / metrics.seconds) for metrics in epochs)


def test_short_epochs_are_not_spent_on_writing(few: ImageData) -> None:
    """After the first epoch, and after the last one."""
    epochs: list[EpochMetrics] = []
    history = fit(digits_network(), CrossEntropy(), few, replace(QUICK, epochs=4), seed=0, save=epochs.append)
    assert [metrics.epoch for metrics in epochs] == [1, 4]
    assert [metrics.epoch for metrics in history] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("lr", 0.0),
        ("clip", float("nan")),
        ("decay", "linear"),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("precision", "float16"),
        ("cpu_threads", 0),
    ],
)
def test_an_option_of_the_optimisation_out_of_range_is_named(name: str, value: float | str) -> None:
    with pytest.raises(ParameterError, match=f"^{name}: expected"):
        replace(QUICK, **{name: value})  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Followed:
    """What a `TrainingProgress` is told."""

    opened: list[tuple[int, int]] = field(default_factory=list)
    shown: list[EpochMetrics] = field(default_factory=list)

    @contextmanager
    def __call__(self, total: int, done: int, /) -> Iterator[Callable[[EpochMetrics], None]]:
        self.opened.append((total, done))
        yield self.shown.append


def test_progress_is_told_of_every_step_and_goes_on_where_it_was(few: ImageData, tmp_path: Path) -> None:
    out, before, after = tmp_path / "a.safetensors", _Followed(), _Followed()
    images = DisturbedImages(few.images, 9, raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        _train(replace(few, images=images), out, run=Run(progress=before))
    _train(few, out, run=Run(resume=True, progress=after))
    assert (before.opened, after.opened) == ([(12, 0)], [(12, 9)])
    assert [metrics.epoch for metrics in before.shown] == [1] * 6 + [2] * 3
    assert [metrics.epoch for metrics in after.shown] == [2] * 3
    last = log_records(out)[-1]
    assert (after.shown[-1].loss, after.shown[-1].terms["accuracy"]) == (last["loss"], last["accuracy"])


def test_only_the_bar_that_is_asked_for_shows_the_loss_and_its_parts(
    few: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    _train(few, out, run=Run(progress=training_bar))
    shown = capsys.readouterr()
    assert shown.out == ""
    for part in ("━━━━━━━━ 0:00:00", "epoch 2", f"loss {log_records(out)[-1]['loss']:.3g}", "accuracy", "img/s"):
        assert part in shown.err
    _train(few, tmp_path / "b.safetensors")
    assert capsys.readouterr() == ("", "")


@dataclass(frozen=True)
class _MeanLabel:
    """A loss whose mean over any images is known: their labels' mean."""

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:  # noqa: ARG002
        backward(0 * network(images).sum())
        return {"loss": labels.float().mean(), "square": labels.square().float().mean()}


@pytest.mark.parametrize("at", [0, 4], ids=["at once", "interrupted"])
def test_metrics_are_means_over_the_images_of_an_epoch(few: ImageData, tmp_path: Path, at: int) -> None:
    """Each image counts once, though 95 images make batches of 15 and of 16; an interruption changes nothing."""
    data = replace(few, images=few.images.subset(range(95)))
    labels = data.arrays()[1]
    out = tmp_path / "a.safetensors"
    epochs: list[EpochMetrics] = []

    def train(images: Images, run: Run) -> list[EpochMetrics]:
        network = digits_network()
        return fit(
            network, _MeanLabel(), replace(data, images=images), QUICK, seed=0, save=epochs.append, run=run, out=out
        )

    images = DisturbedImages(data.images, at, raise_signal(signal.SIGTERM))
    if at:
        with pytest.raises(Interrupted):
            train(images, Run())
        assert images.handed_out == [16] * at
    history = train(data.images, Run(resume=True))
    assert history == epochs
    assert [metrics.epoch for metrics in history] == [1, 2]
    for metrics in history:
        assert metrics.loss == pytest.approx(labels.mean(), rel=1e-6)
        assert metrics.terms["square"] == pytest.approx((labels**2).mean(), rel=1e-6)
        assert metrics.images_per_second * metrics.seconds == pytest.approx(95)
    for record, metrics in zip(log_records(out), history, strict=True):
        assert (record["epoch"], record["loss"], record["square"]) == (
            metrics.epoch,
            metrics.loss,
            metrics.terms["square"],
        )


@dataclass(frozen=True)
class _Explodes:
    """Cross entropy, 10⁶ times as large from one step on."""

    steps: list[int] = field(default_factory=list)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:  # noqa: ARG002
        self.steps.append(1)
        logits = network(images)
        factor = 1e6 if len(self.steps) > 100 else 1.0
        return backward(factor * nn.functional.cross_entropy(logits, labels), accuracy=batch_accuracy(logits, labels))


def test_a_loss_that_explodes_without_being_infinite_stops_the_training(few: ImageData) -> None:
    network, method = digits_network(), _Explodes()
    epochs: list[EpochMetrics] = []
    with pytest.raises(TrainingError, match=r"epoch 3: expected a loss of the order of its first steps, at most [1-9]"):
        fit(network, method, few, LONG, seed=0, save=epochs.append)
    assert 101 < len(method.steps) < 110
    assert [metrics.epoch for metrics in epochs] == [1]
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


@pytest.mark.parametrize("label", [10, 255, -1])
def test_a_label_outside_the_classes_is_named(few: ImageData, tmp_path: Path, label: int) -> None:
    assert isinstance(few.images, TensorImages)
    labels = few.images.labels.clone()
    labels[5] = label
    wrong = replace(few, images=replace(few.images, labels=labels))
    with pytest.raises(DataError, match=f"^labels: expected 0 to 9, got {label}$"):
        _train(wrong, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
