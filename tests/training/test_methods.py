"""Noise, adversarial training and regression on the average: each loss against what is known of it exactly."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn import functional

from heatserve.training.architectures import build_network
from heatserve.training.checkpoint import Checkpoint, CheckpointError, base_path, load_base, load_checkpoint
from heatserve.training.data.splits import ImageData, load_data
from heatserve.training.loop.fitting import fit
from heatserve.training.loop.optimisation import Optimisation
from heatserve.training.methods.adversarial import AdversarialLoss, frozen, l2_pgd
from heatserve.training.methods.average import AverageLoss, Pair
from heatserve.training.methods.parameters import (
    AverageParameters,
    HeatParameters,
    MadryParameters,
    NoiseParameters,
    ParameterError,
    Parameters,
    SmoothAdvParameters,
)
from heatserve.training.methods.protocol import Method
from heatserve.training.train import train_baseline, train_from

QUICK = Optimisation(epochs=1, batch_size=32, lr=0.05, cpu_threads=1)
SIGMA = 0.5
LABELS = torch.tensor([0, 1, 2, 3, 4, 5])


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=_seeded(9))


def _network(seed: int = 1) -> nn.Module:
    """A digits CNN with BatchNorm, freshly initialised, in train mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network("digits_cnn", num_classes=10, input_shape=(1, 8, 8), mean=(0.5,), std=(0.5,)).train()


def _seen(network: nn.Module) -> list[tuple[bool, Tensor]]:
    """What goes through `network` from now on: whether it was in train mode, and the images."""
    seen: list[tuple[bool, Tensor]] = []
    network.register_forward_hook(lambda module, inputs, _: seen.append((module.training, inputs[0].detach().clone())))
    return seen


def _gradient(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def few() -> ImageData:
    digits = load_data("digits", "train")
    return replace(digits, images=digits.images.subset(range(96)))


@pytest.fixture(scope="module")
def baseline(few: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    out = tmp_path_factory.mktemp("runs") / "baseline.safetensors"
    return load_checkpoint(train_baseline(few, "digits_cnn", out=out, optimisation=QUICK))


def _noisy_loss(logits: Tensor, target: Tensor, consistency: float) -> Tensor:
    """Cross entropy from `target` [N, K] to logits [m, N, K], plus λ times the mean divergence KL(p̄ ‖ p_j)."""
    cross_entropy = -(target * logits.log_softmax(2)).sum(2).mean()
    answers = logits.softmax(2)
    mean = answers.mean(0)
    divergence = torch.stack([(mean * (mean / answer).log()).sum(1) for answer in answers]).mean()
    return cross_entropy + consistency * divergence


@pytest.mark.parametrize(("samples", "consistency"), [(1, 0.0), (3, 0.0), (3, 5.0)])
@pytest.mark.parametrize("label_free", [False, True])
def test_training_under_noise_is_cross_entropy_on_noisy_images(
    label_free: bool, samples: int, consistency: float
) -> None:
    """From the label, or from the starting network's softmax at the clean image; N(0, σ²I) is added to the pixels."""
    start, network = _network(2).eval(), _network()
    shown_to_start, seen = _seen(start), _seen(network)
    expected = copy.deepcopy(network)
    p = NoiseParameters(sigma=SIGMA, label_free=label_free, samples=samples, consistency=consistency)
    terms = p.loss(start)(network, _images(), LABELS, _seeded())
    assert len(shown_to_start) == label_free
    assert all(torch.equal(images, _images()) for _, images in shown_to_start)
    ((training, noisy),) = seen
    assert training
    target = start(_images()).softmax(1).detach() if label_free else functional.one_hot(LABELS, 10).float()
    loss = _noisy_loss(expected(noisy).view(samples, 6, 10), target, consistency)
    loss.backward()  # type: ignore[no-untyped-call]
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.allclose(_gradient(network), _gradient(expected), rtol=1e-3, atol=1e-5)
    noise = noisy - _images().repeat(samples, 1, 1, 1)
    assert noise.std().item() == pytest.approx(SIGMA, rel=0.1)
    assert len(torch.unique(noise)) > 0.99 * noise.numel()  # each pixel has its own


@pytest.mark.parametrize(
    ("parameters", "uses_labels"),
    [
        (NoiseParameters(sigma=SIGMA), True),
        (NoiseParameters(sigma=SIGMA, label_free=True), False),
        (MadryParameters(), True),
        (SmoothAdvParameters(sigma=SIGMA), True),
        (HeatParameters(sigma=SIGMA, kappa=1), False),
        (AverageParameters(sigma=SIGMA), False),
        (AverageParameters(sigma=SIGMA, frozen_base=True), False),
    ],
)
def test_labels_count_only_where_a_method_is_said_to_use_them(parameters: Parameters, uses_labels: bool) -> None:
    method = parameters.loss(_network(2).eval())
    gradients = []
    for labels in (LABELS, LABELS.flip(0)):
        network = Pair(_network(), _network()) if isinstance(parameters, AverageParameters) else _network()
        method(network, _images(), labels, _seeded())
        gradients.append(_gradient(network))
    assert gradients[0].norm() > 0
    assert torch.equal(*gradients) != uses_labels


def _norms(displacement: Tensor) -> Tensor:
    norms: Tensor = displacement.flatten(1).norm(dim=1)
    return norms


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 5.0])
def test_pgd_stays_in_the_ball_and_in_the_box_and_raises_the_loss(epsilon: float) -> None:
    network, x = _network().eval(), _images()

    def loss(images: Tensor) -> Tensor:
        return functional.cross_entropy(network(images), LABELS, reduction="sum")

    attacked = l2_pgd(loss, x, epsilon=epsilon, steps=5)
    assert not attacked.requires_grad
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert (_norms(attacked - x) <= epsilon * (1 + 1e-5)).all()
    assert (_norms(attacked - x) > epsilon / 10).all()
    before, after = (functional.cross_entropy(network(images), LABELS, reduction="none") for images in (x, attacked))
    assert (after > before).all()


@pytest.mark.parametrize("steps", [2, 4, 7])
def test_pgd_finds_the_exact_maximiser_of_a_linear_loss(steps: int) -> None:
    """Inside the box that is x + εg/‖g‖, for each image by its own gradient g."""
    gradient = torch.randn(6, 1, 8, 8, generator=_seeded(3)) * torch.logspace(-3, 3, 6)[:, None, None, None]
    x = torch.full((6, 1, 8, 8), 0.5)
    attacked = l2_pgd(lambda images: (gradient * images).sum(), x, epsilon=0.4, steps=steps)
    expected = x + 0.4 * gradient / _norms(gradient)[:, None, None, None]
    assert expected.min() > 0
    assert expected.max() < 1
    assert torch.allclose(attacked, expected, atol=1e-5)


def test_pgd_finds_the_corner_of_the_box_that_a_linear_loss_asks_for() -> None:
    signs = torch.randn(6, 1, 8, 8, generator=_seeded(3)).sign()
    attacked = l2_pgd(lambda images: (signs * images).sum(), _images(), epsilon=1000.0, steps=4)
    assert torch.equal(attacked, (signs + 1) / 2)


def test_pgd_finds_a_maximiser_inside_the_ball() -> None:
    """Up to the length of its last step."""
    x = torch.full((6, 1, 8, 8), 0.5)
    offset = torch.randn(6, 1, 8, 8, generator=_seeded(3))
    best = x + 0.3 * offset / _norms(offset)[:, None, None, None]
    attacked = l2_pgd(lambda images: -(images - best).square().sum(), x, epsilon=1.0, steps=40)
    assert (_norms(attacked - best) <= 2 / 40 + 1e-5).all()


def test_pgd_stays_where_the_gradient_vanishes() -> None:
    assert torch.equal(l2_pgd(lambda images: 0 * images.sum(), _images(), epsilon=1.0, steps=3), _images())


@pytest.mark.parametrize(("sigma", "samples"), [(0.0, 1), (SIGMA, 1), (SIGMA, 3)], ids=["madry", "one", "three"])
def test_adversarial_training_attacks_in_eval_mode_and_trains_on_the_same_noise(sigma: float, samples: int) -> None:
    """Only the last forward counts for BatchNorm; noise is the same in every step of the attack and in training."""
    network = _network()
    expected = copy.deepcopy(network)
    seen = _seen(network)
    terms = AdversarialLoss(epsilon=0.5, steps=3, sigma=sigma, samples=samples)(network, _images(), LABELS, _seeded())
    assert [training for training, _ in seen] == [False, False, False, True]
    first, last = seen[0][1], seen[-1][1]
    noise = first - _images().repeat(samples, 1, 1, 1)
    assert noise.std().item() == pytest.approx(sigma, rel=0.1)
    displacement = (last - first).view(samples, *_images().shape)
    assert torch.allclose(displacement, displacement[:1].expand_as(displacement), atol=1e-5)  # of the image, not copy
    assert (_norms(displacement[0]) <= 0.5 + 1e-5).all()
    loss = functional.cross_entropy(expected(last), LABELS.repeat(samples))
    loss.backward()  # type: ignore[no-untyped-call]
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.equal(_gradient(network), _gradient(expected))
    for (name, found), (_, wanted) in zip(network.named_buffers(), expected.named_buffers(), strict=True):
        assert torch.equal(found, wanted), name


def test_smoothadv_attacks_the_log_of_the_mean_probability() -> None:
    """Equation (6): one step of length 2ε, cut to ε, along the gradient of −log(mean softmax_y)."""
    network = _network()
    with torch.no_grad():
        network.get_parameter("backbone.linear.weight").mul_(30)  # the mean of logarithms is something else now
    attacker = copy.deepcopy(network).eval()
    seen = _seen(network)
    images = 0.25 + 0.5 * _images()
    AdversarialLoss(epsilon=0.01, steps=1, sigma=SIGMA, samples=3)(network, images, LABELS, _seeded())
    (_, first), (_, last) = seen

    def direction(loss: Callable[[Tensor], Tensor]) -> Tensor:
        x = torch.zeros(6, 1, 8, 8, requires_grad=True)
        answers = attacker(first + x.repeat(3, 1, 1, 1)).softmax(1).view(3, 6, 10)[:, torch.arange(6), LABELS]
        (gradient,) = torch.autograd.grad(loss(answers).sum(), x)
        return gradient / _norms(gradient)[:, None, None, None]

    displacement = (last - first)[:6]
    wrong = 0.01 * direction(lambda answers: -answers.log().mean(0))
    assert torch.allclose(displacement, 0.01 * direction(lambda answers: -answers.mean(0).log()), atol=1e-5)
    assert not torch.allclose(displacement, wrong, atol=1e-4)


def test_the_attack_gives_the_network_back_as_it_was() -> None:
    network = _network()
    still = network.get_submodule("backbone.linear").requires_grad_(False)
    with frozen(network):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.training
    assert all(
        parameter.requires_grad != any(parameter is fixed for fixed in still.parameters())
        for parameter in network.parameters()
    )
    with pytest.raises(RuntimeError, match="in the attack"), frozen(network):
        raise RuntimeError("in the attack")
    assert network.training
    with frozen(network.eval()):
        pass
    assert not network.training


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
        direction = torch.randn(5, generator=_seeded(8))
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
        AverageLoss(base, p)(pair, images, torch.zeros(4), _seeded())
    assert (4 * _gradient(at_average)).abs().max() < 0.015
    assert (4 * _gradient(at_base)).abs().max() > 0.04


def test_one_noisy_copy_gives_the_same_gradient_in_the_mean_as_many() -> None:
    base, single_pass = _TwoClasses(), _Free(torch.randn(4, 2, generator=_seeded(1)))
    images = base.images(-2.0, -0.5, 1.0, 3.0)
    gradients = []
    for samples, repeats in ((1, 1000), (1000, 1)):
        pair = Pair(base, copy.deepcopy(single_pass))
        loss = AverageLoss(base, AverageParameters(sigma=SIGMA, samples=samples, frozen_base=True))
        for seed in range(repeats):
            loss(pair, images, torch.zeros(4), _seeded(seed))
        gradients.append(_gradient(pair) / repeats)
    assert gradients[0].abs().max() > 0.05
    assert torch.allclose(gradients[0], gradients[1], atol=0.02)


@pytest.mark.parametrize("consistency", [0.0, 5.0])
def test_f_is_trained_under_noise_and_v_on_the_clean_images_beside_it(consistency: float) -> None:
    start, base, single_pass = _network(2).eval(), _network(3), _network(4)
    wanted_base, wanted_single_pass = copy.deepcopy(base), copy.deepcopy(single_pass)
    seen_base, seen_single_pass, seen_start = _seen(base), _seen(single_pass), _seen(start)
    terms = AverageLoss(start, AverageParameters(sigma=SIGMA, target="probabilities", consistency=consistency))(
        Pair(base, single_pass), _images(), LABELS, _seeded()
    )
    ((_, noisy),), ((_, clean),), ((_, shown),) = seen_base, seen_single_pass, seen_start
    assert torch.equal(clean, _images())
    assert torch.equal(shown, _images())
    assert (noisy - _images().repeat(2, 1, 1, 1)).std().item() == pytest.approx(SIGMA, rel=0.1)
    answers = wanted_base(noisy).view(2, 6, 10)
    base_loss = _noisy_loss(answers, start(_images()).softmax(1).detach(), consistency)
    average = answers.detach().softmax(2).mean(0)
    single_pass_loss = functional.cross_entropy(wanted_single_pass(clean), average)
    (base_loss + single_pass_loss).backward()  # type: ignore[no-untyped-call]
    assert terms["base_loss"].item() == pytest.approx(base_loss.item(), rel=1e-5)
    assert terms["single_pass_loss"].item() == pytest.approx(single_pass_loss.item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx((base_loss + single_pass_loss).item(), rel=1e-5)
    assert torch.allclose(_gradient(base), _gradient(wanted_base), rtol=1e-3, atol=1e-5)
    assert torch.allclose(_gradient(single_pass), _gradient(wanted_single_pass), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("frozen_base", [True, False])
def test_a_frozen_base_stays_as_it_is_bit_for_bit(few: ImageData, frozen_base: bool) -> None:
    start = _network(2).eval()
    pair = Pair(_network(2).requires_grad_(not frozen_base), _network(2))
    base, single_pass = _state(pair.base), _state(pair.single_pass)
    method: Method = AverageLoss(start, AverageParameters(sigma=SIGMA, frozen_base=frozen_base))
    fit(pair, method, few, replace(QUICK, weight_decay=0.1), seed=0, on_epoch=lambda _: None)
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


def test_a_frozen_base_of_another_training_is_refused(few: ImageData, baseline: Checkpoint, tmp_path: Path) -> None:
    noisy = train_from(baseline, few, NoiseParameters(sigma=0.25), out=tmp_path / "f.safetensors", optimisation=QUICK)
    p = AverageParameters(sigma=SIGMA, frozen_base=True)
    for parent, came in ((noisy, "noise with σ = 0.25"), (baseline.path, "baseline with σ = None")):
        message = f"^{parent}: expected a base trained by noise with σ = 0.5, got one trained by {came}"
        with pytest.raises(ParameterError, match=message):
            train_from(parent, few, p, out=tmp_path / "v.safetensors")
    assert not (tmp_path / "v.safetensors").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseParameters(sigma=0.0), "^sigma: expected a number above 0, got 0.0"),
        (lambda: NoiseParameters(sigma=0.5, samples=0), "^samples: expected"),
        (lambda: NoiseParameters(sigma=0.5, samples=2, consistency=-1.0), "^consistency: expected a number from 0"),
        (lambda: NoiseParameters(sigma=0.5, consistency=1.0), "^samples: expected 2 or more where"),
        (
            lambda: AverageParameters(sigma=0.5, samples=1),
            "^samples: expected 2 or more where",
        ),
        (lambda: MadryParameters(epsilon=-1.0), "^epsilon: expected a number above 0, got -1.0"),
        (lambda: MadryParameters(steps=0), "^steps: expected a whole number from 1, got 0"),
        (lambda: SmoothAdvParameters(sigma=float("nan")), "^sigma: expected a number above 0, got nan"),
        (lambda: SmoothAdvParameters(sigma=0.5, steps=0), "^steps: expected"),
        (lambda: SmoothAdvParameters(sigma=0.5, samples=0), "^samples: expected a whole number from 1, got 0"),
        (lambda: AverageParameters(sigma=float("inf")), "^sigma: expected"),
        (lambda: AverageParameters(sigma=0.5, samples=0), "^samples: expected"),
        (
            lambda: AverageParameters(sigma=0.5, target="logits"),
            "^target: expected probabilities or votes, got 'logits'",
        ),
        (lambda: AverageParameters(sigma=0.5, distance="l1"), "^distance: expected cross-entropy or squared, got 'l1'"),
    ],
)
def test_a_parameter_out_of_range_is_named(make: Callable[[], Parameters], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make()
