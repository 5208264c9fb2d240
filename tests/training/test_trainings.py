"""The two trainings, of a baseline and from a trained network: on the digits, with their own recipes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small_training import few_digits
from torch import Tensor, nn

from heatserve.training.checkpoint import Checkpoint, load_checkpoint
from heatserve.training.data.errors import DataError
from heatserve.training.data.images import Batch, Images
from heatserve.training.data.splits import ImageData, load_data
from heatserve.training.evaluate import accuracy
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.loop.trainer import TrainingError
from heatserve.training.methods.parameters import HeatParameters
from heatserve.training.recipes import baseline_optimisation, fine_tuning
from heatserve.training.train import step_path, train_baseline, train_from, train_lipschitz

QUICK = Optimisation(epochs=1, batch_size=64, lr=0.05, cpu_threads=1)


@pytest.fixture(scope="module")
def few() -> ImageData:
    return few_digits()


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", "train")


@pytest.fixture(scope="module")
def baseline(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Trained until it classifies the few images right."""
    out, optimisation = (
        tmp_path_factory.mktemp("runs") / "baseline.safetensors",
        replace(QUICK, epochs=15, batch_size=16),
    )
    return load_checkpoint(train_baseline(few, "digits_cnn", out=out, optimisation=optimisation))


def _votes(network: nn.Module, images: Tensor, sigma: float, n: int) -> Tensor:
    """How many of n noisy copies of each image are given to each class [N, K]."""
    generator = torch.Generator().manual_seed(5)
    votes = torch.zeros(len(images), 10)
    with torch.no_grad():
        for _ in range(n):
            classes = network(images + sigma * torch.randn(images.shape, generator=generator)).argmax(1)
            votes[torch.arange(len(images)), classes] += 1
    return votes


@pytest.mark.slow
def test_one_epoch_of_heat_without_labels_makes_the_single_pass_agree_with_its_average(
    digits: ImageData, tmp_path: Path
) -> None:
    """By the recipes as they are; by another seed than the committed model, which a test does not measure once more."""
    test = load_data("digits", "test")
    baseline = load_checkpoint(train_baseline(digits, "digits_cnn", out=tmp_path / "baseline.safetensors", seed=1))
    out = train_from(baseline, digits, HeatParameters(sigma=0.25), out=tmp_path / "heat.safetensors", seed=1)
    heat = load_checkpoint(out)
    images, labels = map(torch.from_numpy, test.arrays())
    with torch.no_grad():
        single_pass = heat.network(images).argmax(1)
    smoothed = _votes(heat.network, images, 0.25, 100).argmax(1)
    assert accuracy(baseline.network, test) >= 0.97
    assert accuracy(baseline.network, test, sigma=0.25) < 0.85
    assert accuracy(heat.network, test) >= 0.95
    assert accuracy(heat.network, test, sigma=0.25) >= 0.9
    assert (smoothed == labels).float().mean() >= 0.95
    assert (smoothed == single_pass).float().mean() >= 0.98


def test_a_heat_checkpoint_says_how_it_came_to_be(few: ImageData, baseline: Checkpoint, tmp_path: Path) -> None:
    out = train_from(
        baseline.path,
        few,
        HeatParameters(sigma=0.5, kappa=2),
        out=tmp_path / "heat.safetensors",
        optimisation=QUICK,
        seed=7,
    )
    metadata = load_checkpoint(out).metadata
    assert (metadata.method, metadata.sigma, metadata.seed, metadata.epochs) == ("heat", 0.5, 7, 1)
    assert metadata.parent_sha256 == baseline.sha256
    assert metadata.hyperparameters["kappa"] == 2
    assert metadata.hyperparameters["coefficient"] == 0.00125
    assert metadata.hyperparameters["batch_size"] == 64
    assert metadata.class_names == baseline.metadata.class_names


@pytest.mark.parametrize("reinitialise", [False, True])
def test_each_time_step_of_heat_starts_from_the_network_of_the_one_before(
    few: ImageData, baseline: Checkpoint, tmp_path: Path, reinitialise: bool
) -> None:
    heat = HeatParameters(sigma=0.25, kappa=1, time_steps=3, reinitialise=reinitialise)
    barely = replace(QUICK, lr=1e-3)
    out = train_from(baseline, few, heat, out=tmp_path / "heat.safetensors", optimisation=barely)
    chain = [baseline, *(load_checkpoint(path) for path in (step_path(out, 1), step_path(out, 2), out))]
    assert [later.metadata.parent_sha256 for later in chain[1:]] == [earlier.sha256 for earlier in chain[:-1]]
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "heat.safetensors",
        "heat.step1.safetensors",
        "heat.step2.safetensors",
    ]
    for earlier, later in pairwise(chain):
        before, after = (found.network.backbone.get_parameter("linear.weight") for found in (earlier, later))
        from_there = torch.allclose(before, after, atol=1e-2)
        assert from_there != (reinitialise and earlier is baseline)
        assert not torch.equal(before, after)


def test_each_method_and_data_set_has_its_own_recipe_or_that_of_its_kind() -> None:
    assert baseline_optimisation("digits") != baseline_optimisation("cifar10") == baseline_optimisation("imagenet")
    assert fine_tuning("noise", "digits") == fine_tuning("madry", "digits") != fine_tuning("average", "digits")
    assert fine_tuning("heat", "imagenet") == fine_tuning("heat", "imagefolder:x") != fine_tuning("noise", "imagenet")


def _weights(path: Path) -> list[Tensor]:
    return list(load_checkpoint(path).network.state_dict().values())


def test_the_seed_decides_everything(few: ImageData, tmp_path: Path) -> None:
    def train(name: str, seed: int) -> list[Tensor]:
        first = train_baseline(few, "digits_cnn", out=tmp_path / name, optimisation=QUICK, seed=seed)
        torch.rand(1)  # torch's global generator is somewhere else each time, and not moved by a training
        heat = HeatParameters(sigma=0.25, kappa=2)
        second = train_from(first, few, heat, out=tmp_path / f"{name}-heat", optimisation=QUICK, seed=seed)
        return _weights(second)

    first, again, other = train("a", 1), train("b", 1), train("c", 2)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


@dataclass(frozen=True)
class _Trouble:
    """Images that are as they should be for one epoch, and then are NaN or bring Ctrl-C."""

    images: Images
    seen: list[int]
    interrupt: bool

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index]

    def subset(self, indices: Sequence[int]) -> Images:
        return self.images.subset(indices)

    def batches(self, index_batches: Sequence[Tensor]) -> Iterator[Batch]:
        self.seen.append(1)
        for images, labels in self.images.batches(index_batches):
            if len(self.seen) > 1 and self.interrupt:
                raise KeyboardInterrupt
            yield images if len(self.seen) == 1 else images * torch.nan, labels


@pytest.mark.parametrize(("interrupt", "error"), [(True, KeyboardInterrupt), (False, TrainingError)])
def test_the_checkpoint_of_the_last_whole_epoch_survives(
    few: ImageData, tmp_path: Path, interrupt: bool, error: type[BaseException]
) -> None:
    out, trouble = tmp_path / "a.safetensors", replace(few, images=_Trouble(few.images, [], interrupt))
    with pytest.raises(error):
        train_baseline(trouble, "digits_cnn", out=out, optimisation=replace(QUICK, epochs=3))
    found = load_checkpoint(out)
    assert found.metadata.epochs == 1
    assert all(torch.isfinite(tensor).all() for tensor in found.network.state_dict().values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.safetensors", "a.state"]


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_no_other_split_can_be_trained_on(split: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"expected train, got {split}"):
        train_baseline(load_data("digits", split), "digits_cnn", out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_images_of_another_network_are_refused(few: ImageData, baseline: Checkpoint, tmp_path: Path) -> None:
    for other, message in (
        (replace(few, input_shape=(3, 8, 8)), r"expects images \(1, 8, 8\)"),
        (replace(few, class_names=tuple("abcdefghij")), "its 10 classes are not those of digits"),
    ):
        with pytest.raises(DataError, match=message):
            train_from(baseline, other, HeatParameters(sigma=0.25), out=tmp_path / "a")


def test_a_training_does_not_replace_what_it_starts_from(few: ImageData, baseline: Checkpoint) -> None:
    before = baseline.path.read_bytes()
    with pytest.raises(TrainingError, match=r"^out: expected another file than .*, which the training starts from$"):
        train_from(baseline, few, HeatParameters(sigma=0.25), out=baseline.path.parent / "." / baseline.path.name)
    with pytest.raises(TrainingError, match=r"^out: expected another file than "):
        train_lipschitz(few, "lipschitz_digits", out=baseline.path, teacher=baseline)
    assert baseline.path.read_bytes() == before


@pytest.mark.parametrize("suffix", [".state", ".jsonl"])
def test_a_checkpoint_is_not_named_as_a_file_beside_it(few: ImageData, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^out: expected another suffix than that of the state and the log"):
        train_baseline(few, "digits_cnn", out=tmp_path / f"baseline{suffix}")
    assert list(tmp_path.iterdir()) == []
