"""Regression on the Gaussian average: its minimiser, what f and v see, and the pair of checkpoints."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import norm
from small_training import (
    digit_images,
    digits_network,
    few_digits,
    gradient_of,
    noisy_cross_entropy,
    seeded,
    seen_by,
)
from torch import Tensor, nn
from torch.nn import functional

from heatserve.training.checkpoint import Checkpoint, CheckpointError, base_path, load_base, load_checkpoint
from heatserve.training.data.splits import ImageData
from heatserve.training.loop.fitting import fit
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.loop.trainer import TrainingError
from heatserve.training.methods.average import AverageLoss, Pair
from heatserve.training.methods.parameters import (
    AverageParameters,
    HeatParameters,
    NoiseParameters,
    ParameterError,
)
from heatserve.training.methods.protocol import Method
from heatserve.training.train import step_path, train_baseline, train_from

QUICK = Optimisation(epochs=1, batch_size=32, lr=0.05, cpu_threads=1)


SIGMA = 0.5


LABELS = torch.tensor([0, 1, 2, 3, 4, 5])


@pytest.fixture(scope="module")
def few() -> ImageData:
    return few_digits()


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def baseline(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    out = tmp_path_factory.mktemp("runs") / "baseline.safetensors"
    return load_checkpoint(train_baseline(few, "digits_cnn", out=out, optimisation=QUICK))


class _Free(nn.Module):
    """Logits [N, K] that are parameters, whatever the images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[: len(images)] * 1.0


class _TwoClasses(nn.Module):
    """Logits (w·x, −w·x) with ‖w‖ = 4."""

    def __init__(self) -> None:
        super().__init__()
        direction = torch.randn(5, generator=seeded(8))
        self.register_buffer("w", 4 * direction / direction.norm())

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ self.get_buffer("w")
        return torch.stack([score, -score], 1)

    def images(self, *scores: float) -> Tensor:
        """[N, 1, 1, 5] with these w·x."""
        return (torch.tensor(scores)[:, None] * self.get_buffer("w") / 16)[:, None, None]


def _average_of_two_classes(scores: npt.NDArray[np.float64], target: str) -> Tensor:
    """E of the answers at w·x + N(0, ‖w‖²σ²): by the normal distribution for votes, by quadrature for probabilities."""
    spread = 4 * SIGMA
    if target == "votes":
        first = norm.cdf(scores / spread)
    else:
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)  # type: ignore[no-untyped-call]
        first = 1 / (1 + np.exp(-2 * (scores[:, None] + spread * nodes))) @ weights / weights.sum()
    return torch.from_numpy(np.stack([first, 1 - first], 1)).float()


@pytest.mark.parametrize("distance", ["cross-entropy", "squared"])
@pytest.mark.parametrize("target", ["probabilities", "votes"])
def test_the_gradient_vanishes_where_the_single_pass_is_the_gaussian_average(target: str, distance: str) -> None:
    """Up to the noise of m draws, of the order of ½m^-½ = 0.0035 for each image; and not where it is f itself."""
    base = _TwoClasses()
    scores = (-2.0, -0.5, 1.0, 3.0)
    images = base.images(*scores)
    p = AverageParameters(sigma=SIGMA, samples=20_000, target=target, distance=distance, frozen_base=True)
    at_average = Pair(base, _Free(_average_of_two_classes(np.array(scores), target).log()))
    at_base = Pair(base, _Free(base(images)))
    for pair in (at_average, at_base):
        AverageLoss(base, p)(pair, images, torch.zeros(4), seeded())
    assert (4 * gradient_of(at_average)).abs().max() < 0.015
    assert (4 * gradient_of(at_base)).abs().max() > 0.04


def test_one_noisy_copy_gives_the_same_gradient_in_the_mean_as_many() -> None:
    base, single_pass = _TwoClasses(), _Free(torch.randn(4, 2, generator=seeded(1)))
    images = base.images(-2.0, -0.5, 1.0, 3.0)
    gradients = []
    for samples, repeats in ((1, 1000), (1000, 1)):
        pair = Pair(base, copy.deepcopy(single_pass))
        loss = AverageLoss(base, AverageParameters(sigma=SIGMA, samples=samples, frozen_base=True))
        for seed in range(repeats):
            loss(pair, images, torch.zeros(4), seeded(seed))
        gradients.append(gradient_of(pair) / repeats)
    assert gradients[0].abs().max() > 0.05
    assert torch.allclose(gradients[0], gradients[1], atol=0.02)


@pytest.mark.parametrize("consistency", [0.0, 5.0])
def test_f_is_trained_under_noise_and_v_on_the_clean_images_beside_it(consistency: float) -> None:
    start, base, single_pass = digits_network(2).eval(), digits_network(3), digits_network(4)
    wanted_base, wanted_single_pass = copy.deepcopy(base), copy.deepcopy(single_pass)
    seen_base, seen_single_pass, seen_start = seen_by(base), seen_by(single_pass), seen_by(start)
    terms = AverageLoss(start, AverageParameters(sigma=SIGMA, target="probabilities", consistency=consistency))(
        Pair(base, single_pass), digit_images(), LABELS, seeded()
    )
    ((_, noisy),), ((_, clean),), ((_, shown),) = seen_base, seen_single_pass, seen_start
    assert torch.equal(clean, digit_images())
    assert torch.equal(shown, digit_images())
    assert (noisy - digit_images().repeat(2, 1, 1, 1)).std().item() == pytest.approx(SIGMA, rel=0.1)
    answers = wanted_base(noisy).view(2, 6, 10)
    base_loss = noisy_cross_entropy(answers, start(digit_images()).softmax(1).detach(), consistency)
    average = answers.detach().softmax(2).mean(0)
    single_pass_loss = functional.cross_entropy(wanted_single_pass(clean), average)
    (base_loss + single_pass_loss).backward()  # type: ignore[no-untyped-call]
    assert terms["base_loss"].item() == pytest.approx(base_loss.item(), rel=1e-5)
    assert terms["single_pass_loss"].item() == pytest.approx(single_pass_loss.item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx((base_loss + single_pass_loss).item(), rel=1e-5)
    assert torch.allclose(gradient_of(base), gradient_of(wanted_base), rtol=1e-3, atol=1e-5)
    assert torch.allclose(gradient_of(single_pass), gradient_of(wanted_single_pass), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("frozen_base", [True, False])
def test_a_frozen_base_stays_as_it_is_bit_for_bit(few: ImageData, frozen_base: bool) -> None:
    start = digits_network(2).eval()
    pair = Pair(digits_network(2).requires_grad_(not frozen_base), digits_network(2))
    base, single_pass = _state(pair.base), _state(pair.single_pass)
    method: Method = AverageLoss(start, AverageParameters(sigma=SIGMA, frozen_base=frozen_base))
    fit(pair, method, few, replace(QUICK, weight_decay=0.1), seed=0, save=lambda _: None)
    for name, tensor in pair.base.state_dict().items():
        if frozen_base or name.endswith(("weight", "running_mean")):
            assert torch.equal(tensor, base[name]) == frozen_base, name
    assert not torch.equal(
        pair.single_pass.state_dict()["backbone.linear.weight"], single_pass["backbone.linear.weight"]
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_pair_is_saved_as_two_checkpoints_that_know_each_other(
    few: ImageData, baseline: Checkpoint, tmp_path: Path
) -> None:
    p = AverageParameters(sigma=SIGMA)
    out = train_from(baseline, few, p, out=tmp_path / "v.safetensors", optimisation=QUICK)
    single_pass, base = load_checkpoint(out), load_checkpoint(base_path(out))
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["v.base.safetensors", "v.safetensors"]
    assert single_pass.metadata.base_sha256 == base.sha256 == _sha256(base_path(out))
    assert base.metadata.base_sha256 is None
    assert (single_pass.metadata.method, base.metadata.method) == ("average", "noise")
    assert (single_pass.metadata.sigma, base.metadata.sigma) == (SIGMA, SIGMA)
    assert single_pass.metadata.parent_sha256 == base.metadata.parent_sha256 == baseline.sha256
    weights = [found.network.backbone.get_parameter("linear.weight") for found in (single_pass, base, baseline)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


@pytest.mark.parametrize("start", ["v", "v.base"])
def test_a_frozen_base_stays_as_it_is_and_stays_beside_v(
    few: ImageData, baseline: Checkpoint, tmp_path: Path, start: str
) -> None:
    """v goes on from itself, with the f that it was trained beside, or starts as f."""
    p = AverageParameters(sigma=SIGMA)
    out = train_from(baseline, few, p, out=tmp_path / "v.safetensors", optimisation=QUICK)
    frozen, parent, w = replace(p, frozen_base=True), tmp_path / f"{start}.safetensors", tmp_path / "w.safetensors"
    again = load_checkpoint(train_from(parent, few, frozen, out=w, optimisation=QUICK))
    assert again.metadata.parent_sha256 == load_checkpoint(parent).sha256
    assert again.metadata.base_sha256 == load_base(again).sha256 == load_checkpoint(base_path(out)).sha256
    before, after = (load_checkpoint(path).network.backbone.get_parameter("linear.weight") for path in (parent, w))
    assert not torch.equal(before, after)
    base_path(w).write_bytes(parent.read_bytes() if start == "v" else out.read_bytes())
    with pytest.raises(CheckpointError, match=r"expected the network that .* was trained to be the average of"):
        load_base(again)


def test_a_training_replaces_no_network_that_it_starts_from(
    few: ImageData, baseline: Checkpoint, tmp_path: Path
) -> None:
    p, out = AverageParameters(sigma=SIGMA), tmp_path / "v.safetensors"
    train_from(baseline, few, p, out=out, optimisation=QUICK)
    before = base_path(out).read_bytes()
    with pytest.raises(TrainingError, match=f"expected another file than {base_path(out)}, which"):
        train_from(base_path(out), few, p, out=out, optimisation=QUICK)
    steps, heat = tmp_path / "h.safetensors", HeatParameters(sigma=SIGMA, kappa=1, time_steps=2)
    train_from(baseline, few, heat, out=steps, optimisation=QUICK)
    with pytest.raises(TrainingError, match="expected another file than"):
        train_from(step_path(steps, 1), few, heat, out=steps, optimisation=QUICK)
    assert base_path(out).read_bytes() == before


def test_a_frozen_base_of_another_training_is_refused(few: ImageData, baseline: Checkpoint, tmp_path: Path) -> None:
    noisy = train_from(baseline, few, NoiseParameters(sigma=0.25), out=tmp_path / "f.safetensors", optimisation=QUICK)
    p = AverageParameters(sigma=SIGMA, frozen_base=True)
    for parent, came in ((noisy, "noise with σ = 0.25"), (baseline.path, "baseline with σ = None")):
        message = f"^{parent}: expected a base trained by noise with σ = 0.5, got one trained by {came}"
        with pytest.raises(ParameterError, match=message):
            train_from(parent, few, p, out=tmp_path / "v.safetensors")
    assert not (tmp_path / "v.safetensors").exists()
