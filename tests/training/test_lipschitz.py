"""Networks that are 1-Lipschitz: each layer, the loss that keeps a margin, and how they are trained."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import DisturbedImages, few_digits, log_records, raise_signal, seeded
from torch import Tensor, nn
from typer.testing import CliRunner

from heatserve.certification.errors import HeatserveError
from heatserve.cli import app
from heatserve.training import (
    ArchitectureError,
    Checkpoint,
    ImageData,
    Optimisation,
    Run,
    accuracy,
    lipschitz_recipe,
    load_checkpoint,
    load_data,
    train_baseline,
    train_lipschitz,
)
from heatserve.training.architectures.lipschitz import ConvexPotential, FirstChannels, LipschitzNetwork, MaxMin
from heatserve.training.data.images import TensorImages
from heatserve.training.loop import Interrupted, TrainingError, fit
from heatserve.training.loop.optimisation import DECAYS
from heatserve.training.loop.replayed import read_ahead
from heatserve.training.methods import Margin, ParameterError

QUICK = Optimisation(epochs=2, batch_size=16, lr=0.1, decay="one-cycle", cpu_threads=1)
"""Six steps an epoch of the 96 images."""


@pytest.fixture(scope="module")
def few() -> ImageData:
    return few_digits()


@pytest.fixture(scope="module")
def teacher(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    out = tmp_path_factory.mktemp("runs") / "baseline.safetensors"
    return load_checkpoint(train_baseline(few, "digits_cnn", out=out, optimisation=QUICK))


def _train(data: ImageData, out: Path, **options: Any) -> Path:
    return train_lipschitz(data, "lipschitz_digits", out=out, **{"optimisation": QUICK, **options})


def _weights(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path).network.state_dict()


def _same(first: Path, second: Path) -> bool:
    tensors, others = _weights(first), _weights(second)
    return all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def _settled(network: nn.Module, shape: tuple[int, ...], passes: int = 500) -> nn.Module:
    """In float64 and eval mode, its estimates of norms after as many steps of power iteration."""
    network.double().train()
    with torch.no_grad():
        for _ in range(passes):
            network(torch.zeros(1, *shape, dtype=torch.float64))
    return network.eval()


def _matrix(function: Any, x: Tensor) -> Tensor:
    """The Jacobian of `function` at one image [1, C, H, W], all numbers in a row."""
    jacobian: Tensor = torch.autograd.functional.jacobian(function, x)  # type: ignore[no-untyped-call]
    return jacobian.reshape(-1, x.numel())


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_layer_of_convex_potential_estimates_the_norm_of_its_convolution(kernel_size: int) -> None:
    torch.manual_seed(0)
    layer = ConvexPotential(4, kernel_size, 5)
    _settled(layer, (4, 5, 5))
    matrix = _matrix(layer._apply_kernel, torch.zeros(1, 4, 5, 5, dtype=torch.float64))
    norm = torch.linalg.matrix_norm(matrix, 2).item()
    estimate = math.sqrt(2 / layer._step().item())
    assert estimate == pytest.approx(norm, rel=1e-5)
    before = layer.direction.clone()
    layer(torch.zeros(1, 4, 5, 5, dtype=torch.float64))
    assert torch.equal(layer.direction, before)  # in eval mode an answer changes nothing


@pytest.mark.parametrize(
    "layer",
    [
        ConvexPotential(4, 1, 4),
        ConvexPotential(4, 3, 4),
        MaxMin(),
        FirstChannels(3),
        FirstChannels(6),
        nn.PixelUnshuffle(2),
        LipschitzNetwork(8, 2, 4, 5),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_jacobian_of_a_layer_has_no_singular_value_above_1(layer: nn.Module) -> None:
    _settled(layer, (4, 4, 4))
    for image in torch.randn(5, 1, 4, 4, 4, dtype=torch.float64, generator=seeded()):
        norm = torch.linalg.matrix_norm(_matrix(layer, image), 2).item()
        assert norm <= 1 + 1e-5
        assert norm > 0.5 or isinstance(layer, LipschitzNetwork)


@pytest.fixture(scope="module")
def settled() -> nn.Module:
    torch.manual_seed(0)
    return _settled(LipschitzNetwork(8, 2, 8, 10), (1, 8, 8))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(-6, 3), uphill=st.booleans())
def test_no_two_answers_are_further_apart_than_their_images(
    settled: nn.Module, seed: int, scale: float, uphill: bool
) -> None:
    """Also in the direction in which a logit grows most."""
    x, direction = torch.randn(2, 1, 1, 8, 8, dtype=torch.float64, generator=seeded(seed))
    if uphill:
        direction = _matrix(settled, x)[seed % 10].view_as(x)
    with torch.no_grad():
        apart = torch.linalg.vector_norm(settled(x + 10**scale * direction) - settled(x))
    assert apart <= torch.linalg.vector_norm(10**scale * direction) * (1 + 1e-5) + 1e-12


def test_maxmin_has_the_derivative_that_torch_has() -> None:
    """Away from ties, where both choose one of many."""
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64, generator=seeded()).requires_grad_()
    first, second = x.chunk(2, dim=1)
    expected = torch.cat((torch.maximum(first, second), torch.minimum(first, second)), dim=1)
    weights = torch.randn(x.shape, dtype=torch.float64, generator=seeded(1))
    found = MaxMin()(x)
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad((weights * answer).sum(), x)[0] for answer in (found, expected)]
    assert torch.equal(*gradients)


def test_the_margin_is_taken_off_the_logit_that_is_to_win() -> None:
    """T·log(1 + exp((z_other − z_y + 2√2·ε)/T)) for two classes; certified are margins above √2·ε."""
    epsilon, temperature = 0.5, 0.25
    margins = [0.8, 0.7, -0.1]  # √2·ε = 0.707
    logits = torch.tensor([[margin, 0.0] for margin in margins]).requires_grad_()
    loss = Margin(epsilon, temperature)
    terms = loss(nn.Identity(), logits, torch.zeros(3, dtype=torch.int64), torch.Generator())
    exponents = [(2 * math.sqrt(2) * epsilon - margin) / temperature for margin in margins]
    expected = sum(temperature * math.log1p(math.exp(exponent)) for exponent in exponents) / 3
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert terms["accuracy"].item() == pytest.approx(2 / 3)
    assert terms["certified"].item() == pytest.approx(1 / 3)
    slopes = [1 / (1 + math.exp(-exponent)) / 3 for exponent in exponents]
    assert logits.grad is not None
    assert logits.grad[:, 1].tolist() == pytest.approx(slopes, rel=1e-5)


@pytest.mark.parametrize(("name", "value"), [("epsilon", 0.0), ("temperature", 0.0), ("epsilon", math.nan)])
def test_a_parameter_of_the_margin_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ParameterError, match=f"^{name}: expected a number above 0, got"):
        replace(Margin(0.1, 0.25), **{name: value})  # type: ignore[arg-type]


def test_one_cycle_raises_the_learning_rate_and_takes_it_down() -> None:
    factors = [DECAYS["one-cycle"](progress) for progress in (0, 0.15, 0.3, 0.65, 1)]
    assert factors == pytest.approx([1 / 25, 0.52, 1, 0.5, 1 / 25 / 10_000], rel=1e-5)


def _shuffled(data: ImageData) -> ImageData:
    assert isinstance(data.images, TensorImages)
    return replace(data, images=replace(data.images, labels=data.images.labels.roll(1)))


def test_label_free_training_reads_no_label(few: ImageData, teacher: Checkpoint, tmp_path: Path) -> None:
    first = _train(few, tmp_path / "a.safetensors", teacher=teacher)
    assert _same(first, _train(_shuffled(few), tmp_path / "b.safetensors", teacher=teacher))
    labelled = [_train(data, tmp_path / f"{i}.safetensors") for i, data in enumerate((few, _shuffled(few)))]
    assert not _same(*labelled)
    free, bound = (load_checkpoint(path).metadata for path in (first, labelled[0]))
    assert (free.hyperparameters["label_free"], bound.hyperparameters["label_free"]) == (True, False)
    assert (free.parent_sha256, bound.parent_sha256) == (teacher.sha256, None)
    assert [ancestor.method for ancestor in free.ancestors or ()] == ["baseline"]


def test_a_start_gives_its_weights(few: ImageData, tmp_path: Path) -> None:
    start = _train(few, tmp_path / "start.safetensors", seed=1)
    barely = replace(QUICK, lr=1e-8, weight_decay=0.0)
    out = _train(few, tmp_path / "out.safetensors", start=start, optimisation=barely)
    before, after = _weights(start), _weights(out)
    kernels = [name for name in before if name.endswith("kernel")]
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in kernels)
    metadata = load_checkpoint(out).metadata
    assert metadata.parent_sha256 == load_checkpoint(start).sha256
    assert (metadata.mean, metadata.std, metadata.hyperparameters["label_free"]) == ((0.5,), (1.0,), False)


def test_what_cannot_be_trained_is_refused(few: ImageData, teacher: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    with pytest.raises(TrainingError, match="teacher, start: expected one of them at most, got both"):
        _train(few, out, teacher=teacher, start=teacher)
    with pytest.raises(
        TrainingError, match="expected a network of the architecture lipschitz_digits, got one of digits_"
    ):
        _train(few, out, start=teacher)
    with pytest.raises(ArchitectureError, match=r"expected one that is 1-Lipschitz by construction, .* got digits_cnn"):
        train_lipschitz(few, "digits_cnn", out=out)
    with pytest.raises(ArchitectureError, match=r"lipschitz_xs: .*expected images \[32, 16, 16\] in this layer"):
        train_lipschitz(few, "lipschitz_xs", out=out)
    with pytest.raises(HeatserveError, match="its 10 classes are not those of digits"):
        _train(replace(few, class_names=tuple("abcdefghij")), out, teacher=teacher)
    assert not out.exists()


def test_an_interrupted_training_goes_on_bit_for_bit(few: ImageData, teacher: Checkpoint, tmp_path: Path) -> None:
    """The directions of the power iteration among the rest."""
    stopped, whole = tmp_path / "stopped.safetensors", tmp_path / "whole.safetensors"
    images = DisturbedImages(few.images, 9, raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        _train(replace(few, images=images), stopped, teacher=teacher)
    _train(few, stopped, teacher=teacher, run=Run(resume=True))
    _train(few, whole, teacher=teacher)
    assert _same(stopped, whole)
    assert log_records(stopped)[-1]["certified"] == log_records(whole)[-1]["certified"]


def test_steps_are_not_replayed_without_a_gpu(few: ImageData) -> None:
    networks = []
    for replayable in (False, True):
        torch.manual_seed(0)
        networks.append(LipschitzNetwork(8, 1, 8, 10))
        method = Margin(0.1, 0.25)
        fit(networks[-1], method, few, QUICK, seed=0, save=lambda _: None, replayable=replayable)
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_batches_that_are_read_ahead_are_the_same(few: ImageData) -> None:
    expected, found = list(few.batches(20)), list(read_ahead(few.batches(20)))
    assert len(found) == len(expected) == 5
    assert all(torch.equal(*labels) for labels in zip((b[1] for b in found), (b[1] for b in expected), strict=True))
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(1 / number for number in (1, 0)))


def test_the_accuracy_within_a_margin_counts_those_that_keep_it(few: ImageData, teacher: Checkpoint) -> None:
    images, labels = map(torch.from_numpy, few.arrays())
    with torch.no_grad():
        logits = teacher.network(images)
    right = logits.gather(1, labels[:, None])[:, 0]
    margins = (right - logits.scatter(1, labels[:, None], -math.inf).amax(1)).tolist()
    for margin in (0.0, 0.1, 0.5):
        kept = sum(found > margin for found in margins)
        assert accuracy(teacher.network, few, margin=margin) == kept / 96
        assert 0 < kept < 96


def test_each_device_has_a_preset() -> None:
    digits, cpu, gpu = (lipschitz_recipe(*what) for what in (("digits", "cuda"), ("cifar10", "cpu"), ("x", "cuda:1")))
    assert digits == lipschitz_recipe("digits", "cpu")
    assert len({digits[0], cpu[0], gpu[0]}) == 3
    assert cpu[1].epochs < gpu[1].epochs
    assert 45_000 % gpu[1].batch_size == 0  # or its steps are not replayed


def _invoke(*arguments: str) -> str:
    command = ["train", "lipschitz", "--data", "digits", "--device", "cpu", *arguments]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_trains_and_says_what_is_within_epsilon(teacher: Checkpoint, tmp_path: Path) -> None:
    out, later = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    stdout = _invoke("--out", str(out), "--epochs", "3")
    found = load_checkpoint(out)
    preset, optimisation = lipschitz_recipe("digits", "cpu")
    assert (found.metadata.method, found.metadata.architecture, found.metadata.epochs) == ("lipschitz", preset, 3)
    assert found.metadata.hyperparameters["lr"] == optimisation.lr
    test = load_data("digits", "test")
    right, kept = accuracy(found.network, test), accuracy(found.network, test, margin=math.sqrt(2) * 36 / 255)
    assert right > 0.6
    assert 0.3 < kept < right
    assert f"{right:.2%} of 400 images" in stdout
    assert f"within 0.141           {kept:.2%}, by norms that are estimated" in stdout
    _invoke(
        "--out", str(later), "--epochs", "1", "--from", str(teacher.path), "--epsilon", "0.25", "--temperature", "0.5"
    )
    free = load_checkpoint(later).metadata
    assert free.parent_sha256 == teacher.sha256
    assert {name: free.hyperparameters[name] for name in ("epsilon", "temperature", "label_free")} == {
        "epsilon": 0.25,
        "temperature": 0.5,
        "label_free": True,
    }
    _invoke("--out", str(later), "--epochs", "1", "--start", str(out), "--decay", "cosine", "--lr", "0.01")
    assert load_checkpoint(later).metadata.parent_sha256 == found.sha256
