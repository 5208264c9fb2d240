"""The heat loss: Algorithm 1 to the letter, exact on linear networks, label free, and BatchNorm counts one forward."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from heatserve.training.architectures import build_network
from heatserve.training.methods.choices import HEAT_OUTPUTS
from heatserve.training.methods.heat import HeatLoss, add_noise, frozen_statistics, squared_slopes
from heatserve.training.methods.parameters import HeatParameters, ParameterError, heat_preset

K, D = 5, 12
NO_LABELS = torch.zeros(3)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _linear(seed: int = 0) -> tuple[nn.Module, Tensor]:
    """v(x) = W·vec(x) + b, and W [K, D]."""
    layer = nn.Linear(D, K)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(K, D, generator=_seeded(seed)))
    return nn.Sequential(nn.Flatten(), layer), layer.weight


def _images(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 3, 4, generator=_seeded(9))


def _initialised(architecture: str, channels: int, size: int, seed: int = 1) -> nn.Module:
    numbers = (0.5,) * channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(
            architecture, num_classes=10, input_shape=(channels, size, size), mean=numbers, std=numbers
        )


def _digits_network() -> nn.Module:
    return _initialised("digits_cnn", 1, 8)


def _without_batch_norm(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
        )


def _gradient(network: nn.Module) -> Tensor:
    """The whole gradient as one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


def _squared_norm(network: nn.Module, images: Tensor, p: HeatParameters, seed: int = 0) -> Tensor:
    """The estimate of ‖∇v‖² [N] from all κ draws, differentiable in the weights."""
    x = images.clone().requires_grad_(p.estimator == "projections")
    logits = network(x)
    return torch.cat(list(squared_slopes(network, x, logits, logits, p, _seeded(seed)))).sum(0)


@pytest.mark.parametrize(("normalisation", "kappa"), [("paper", 10), ("paper", 2000), ("unbiased", 2000)])
def test_the_penalty_of_a_linear_network_has_the_mean_that_it_promises(normalisation: str, kappa: int) -> None:
    network, weight = _linear()
    p = HeatParameters(sigma=1, kappa=kappa, normalisation=normalisation, draws_at_once=kappa)
    repeats = 2000 // kappa
    total = torch.zeros(3)
    for seed in range(repeats):
        total += _squared_norm(network, _images(), p, seed).detach()
    expected = weight.square().sum() * (kappa / K if normalisation == "paper" else 1)
    assert torch.allclose(total / repeats, expected.expand(3), rtol=0.05)


@pytest.mark.parametrize("normalisation", ["paper", "unbiased"])
def test_displacements_of_a_linear_network_have_the_same_mean_without_an_input_gradient(normalisation: str) -> None:
    network, weight = _linear()
    p = HeatParameters(sigma=1, kappa=4000, estimator="displacements", normalisation=normalisation, draws_at_once=1000)
    found = _squared_norm(network, _images(), p)
    assert torch.allclose(found, weight.square().sum().expand(3), rtol=0.05)


def test_one_displacement_of_a_linear_network_is_its_slope_in_a_random_direction() -> None:
    network, weight = _linear()
    p = HeatParameters(sigma=1, kappa=1, delta=0.3, estimator="displacements")
    generator = _seeded(4)
    torch.randn((1, 3, K), generator=generator)  # the projections are drawn first, and not used
    u = torch.randn((3, D), generator=generator)  # √D times a direction of mean squared length 1
    assert torch.allclose(_squared_norm(network, _images(), p, 4), (u @ weight.T).square().sum(1), rtol=1e-4)


def test_one_draw_on_a_linear_network_is_the_projected_gradient_exactly() -> None:
    network, weight = _linear()
    w = torch.randn((3, K), generator=_seeded(4)) / K**0.5
    p = HeatParameters(sigma=1, kappa=1, delta=0.3, normalisation="paper")
    assert torch.allclose(_squared_norm(network, _images(), p, 4), (w @ weight).square().sum(1), rtol=1e-4)


def test_the_penalty_is_zero_where_the_gradient_vanishes() -> None:
    network, weight = _linear()
    nn.init.zeros_(weight)
    found = _squared_norm(network, _images(), HeatParameters(sigma=1, kappa=2))
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.tolist() == [0, 0, 0]
    assert torch.isfinite(weight.grad if weight.grad is not None else torch.tensor(torch.nan)).all()


def test_directions_are_detached_and_the_gradient_in_the_weights_is_right() -> None:
    """On a linear network ∂/∂W of (w·Wĝ)² with ĝ held still is 2(w·Wĝ)·wĝᵀ; with w·Wĝ = ‖Wᵀw‖ it is 2wwᵀW."""
    network, weight = _linear()
    w = torch.randn((1, K), generator=_seeded(4)) / K**0.5
    p = HeatParameters(sigma=1, kappa=1, delta=0.3, normalisation="paper")
    _squared_norm(network, _images(1), p, 4).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert torch.allclose(weight.grad, 2 * w.T @ w @ weight.detach(), rtol=1e-3, atol=1e-4)


def _naive_algorithm_1(
    network: nn.Module, base: nn.Module, images: Tensor, p: HeatParameters, generator: torch.Generator
) -> Tensor:
    """Algorithm 1 line by line: each draw has its own forward at x and its own graph; one backward pass at the end."""
    compared, penalised = HEAT_OUTPUTS[p.distance], HEAT_OUTPUTS[p.penalty]
    x = add_noise(images, sigma=p.sigma, share=p.noisy_share, generator=generator)
    target = compared(base(images)).detach()
    loss = 0.5 * (compared(network(x)) - target).square().sum(1).mean()
    w = torch.randn((p.kappa, len(x), target.shape[1]), generator=generator) / target.shape[1] ** 0.5
    factor = 1.0 if p.normalisation == "paper" else target.shape[1] / p.kappa
    for projection in w:
        at = x.clone().requires_grad_()
        before = (projection * penalised(network(at))).sum(1)
        (gradient,) = torch.autograd.grad(before.sum(), at, retain_graph=True)
        direction = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        after = (projection * penalised(network(x + p.delta * direction))).sum(1)
        loss = loss + p.gradient_weight * factor * ((after - before) / p.delta).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@pytest.mark.parametrize(
    "p",
    [
        HeatParameters(sigma=0.5, kappa=3),
        HeatParameters(sigma=0.5, kappa=3, penalty="probabilities", coefficient=1.0),
        replace(heat_preset("paper-cifar10", 0.5), kappa=2, time_steps=1, coefficient=10.0),
    ],
    ids=["default", "probabilities", "paper"],
)
@pytest.mark.parametrize(
    ("architecture", "channels", "size"),
    [("digits_cnn", 1, 8), pytest.param("cifar_resnet20", 3, 16, marks=pytest.mark.slow)],
)
def test_the_gradient_is_that_of_algorithm_1_to_the_letter(
    architecture: str, channels: int, size: int, p: HeatParameters
) -> None:
    base = _initialised(architecture, channels, size, seed=2).eval()
    naive = _initialised(architecture, channels, size).train()
    ours = copy.deepcopy(naive)
    images = torch.rand(4, channels, size, size, generator=_seeded(3))
    loss = _naive_algorithm_1(naive, base, images, p, _seeded(5))
    terms = HeatLoss(base, p)(ours, images, NO_LABELS, _seeded(5))
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    assert terms["penalty"] > 0.01 * terms["loss"]  # both parts are seen in the gradient
    assert (_gradient(ours) - _gradient(naive)).norm() < 1e-4 * _gradient(naive).norm()


@pytest.mark.parametrize("draws_at_once", [1, 3, 4])
def test_draws_taken_at_once_give_the_same_gradient_without_batch_norm(draws_at_once: int) -> None:
    base, naive = _without_batch_norm(2), _without_batch_norm()
    ours = copy.deepcopy(naive)
    p = HeatParameters(sigma=0.5, kappa=4, coefficient=1.0, draws_at_once=draws_at_once)
    images = torch.rand(4, 1, 8, 8, generator=_seeded(3))
    loss = _naive_algorithm_1(naive, base, images, p, _seeded(5))
    terms = HeatLoss(base, p)(ours, images, NO_LABELS, _seeded(5))
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    assert (_gradient(ours) - _gradient(naive)).norm() < 1e-4 * _gradient(naive).norm()


def test_gradients_are_added_to_those_that_are_there() -> None:
    network, base = _without_batch_norm(), _without_batch_norm(2)
    images = torch.rand(4, 1, 8, 8, generator=_seeded(3))
    loss = HeatLoss(base, HeatParameters(sigma=0.5, kappa=2))
    loss(network, images, NO_LABELS, _seeded())
    once = _gradient(network).clone()
    loss(network, images, NO_LABELS, _seeded())
    assert once.norm() > 0
    assert torch.allclose(_gradient(network), 2 * once, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("draws_at_once", "displaced"), [(1, [3, 3, 3, 3]), (3, [9, 3]), (10, [12])])
def test_one_forward_at_x_serves_every_draw(draws_at_once: int, displaced: list[int]) -> None:
    network, _ = _linear()
    base, _ = _linear(seed=1)
    batches: list[int] = []
    network.register_forward_hook(lambda _module, inputs, _output: batches.append(len(inputs[0])))
    HeatLoss(base, HeatParameters(sigma=0.5, kappa=4, draws_at_once=draws_at_once))(
        network, _images(), NO_LABELS, _seeded()
    )
    assert batches == [3, *displaced]


def test_equation_15_on_a_linear_network() -> None:
    """½‖v(x) − f(x)‖² + c‖∇v‖², with c‖∇v‖² = c‖W‖² in the mean over draws."""
    network, weight = _linear()
    base, _ = _linear(seed=1)
    heat = HeatParameters(
        sigma=0.5,
        kappa=1000,
        distance="logits",
        noisy_share=0,
        normalisation="unbiased",
        coefficient=0.7,
        draws_at_once=1000,
    )
    terms = HeatLoss(base, heat)(network, _images(), NO_LABELS, _seeded())
    distance = 0.5 * (network(_images()) - base(_images())).square().sum(1).mean()
    assert torch.allclose(terms["distance"], distance, rtol=1e-4)
    assert torch.allclose(terms["penalty"], 0.7 * weight.square().sum(), rtol=0.05)
    assert torch.allclose(terms["loss"], terms["distance"] + terms["penalty"])
    assert not any(term.requires_grad for term in terms.values())


def _draws(p: HeatParameters, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the loss draws from a fresh generator: v's images, and the projections w [κ, N, K]."""
    generator = _seeded()
    x = add_noise(images, sigma=p.sigma, share=p.noisy_share, generator=generator)
    return x, torch.randn((p.kappa, len(images), K), generator=generator) / K**0.5


def test_the_preset_of_cifar10_is_a_fifth_of_equation_15_with_the_sum_of_equation_16() -> None:
    """½‖v(x) − f(x)‖² + hσ²/2·Σ‖Wᵀw‖² over κ = 10 draws, h = 1/5, on clean images."""
    network, weight = _linear()
    base, _ = _linear(seed=1)
    p = heat_preset("paper-cifar10", 0.5)
    terms = HeatLoss(base, p)(network, _images(), NO_LABELS, _seeded())
    _, w = _draws(p, _images())
    distance = 0.5 * (network(_images()) - base(_images())).square().sum(1).mean()
    assert len(w) == 10
    assert torch.allclose(terms["distance"], distance, rtol=1e-4)
    assert torch.allclose(terms["penalty"], 0.5**2 / 2 / 5 * (w @ weight).square().sum((0, 2)).mean(), rtol=1e-4)


def test_the_preset_of_imagenet_is_equation_10_with_the_sum_of_equation_16() -> None:
    """½‖softmax v(x) − softmax f(x)‖² + σ²/2·Σ‖Wᵀw‖² over κ = 10 draws; v sees noise on half of the images."""
    network, weight = _linear()
    base, _ = _linear(seed=1)
    p = heat_preset("paper-imagenet", 0.5)
    images = _images(4)
    terms = HeatLoss(base, p)(network, images, NO_LABELS, _seeded())
    x, w = _draws(p, images)
    distance = 0.5 * (network(x).softmax(1) - base(images).softmax(1)).square().sum(1).mean()
    assert (x != images).flatten(1).any(1).sum() == 2
    assert len(w) == 10
    assert torch.allclose(terms["distance"], distance, rtol=1e-4)
    assert torch.allclose(terms["penalty"], 0.5**2 / 2 * (w @ weight).square().sum((0, 2)).mean(), rtol=1e-4)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ParameterError, match=r"^preset: expected paper-cifar10 or paper-imagenet, got "):
        heat_preset("paper-mnist", 0.5)


def test_a_time_step_takes_its_part_of_the_coefficient() -> None:
    network, _ = _linear()
    base, _ = _linear(seed=1)
    whole, part = (
        HeatLoss(base, HeatParameters(sigma=0.5, time_steps=n))(network, _images(), NO_LABELS, _seeded())
        for n in (1, 4)
    )
    assert whole["penalty"] > 0
    assert torch.allclose(part["penalty"], whole["penalty"] / 4)
    assert torch.equal(part["distance"], whole["distance"])


def test_equation_3_compares_probabilities_and_the_coefficient_weighs_the_penalty() -> None:
    network, _ = _linear()
    base, _ = _linear(seed=1)
    plain, heavy = (HeatParameters(sigma=0.5, noisy_share=0, coefficient=c) for c in (None, 0.125))
    terms = [HeatLoss(base, heat)(network, _images(), NO_LABELS, _seeded()) for heat in (plain, heavy)]
    distance = 0.5 * (network(_images()).softmax(1) - base(_images()).softmax(1)).square().sum(1).mean()
    assert torch.allclose(terms[0]["distance"], distance, rtol=1e-4)
    assert torch.allclose(100 * terms[0]["penalty"], terms[1]["penalty"])


def test_the_default_weighs_the_gradient_as_the_paper_did_on_imagenet() -> None:
    """κ = 10 draws of K = 1000 classes: "paper" with σ²/2 and the default are the same number."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(D, 1000))
    printed = HeatParameters(sigma=0.5, normalisation="paper", coefficient=0.5**2 / 2)
    penalties = [
        HeatLoss(network, heat)(network, _images(), NO_LABELS, _seeded())["penalty"]
        for heat in (HeatParameters(sigma=0.5), printed)
    ]
    assert penalties[0] > 0
    assert torch.allclose(penalties[0], penalties[1])


def test_a_penalty_on_probabilities_is_smaller_than_one_on_logits() -> None:
    """The softmax contracts: its Jacobian has norm at most ½."""
    network, _ = _linear()
    penalties = [
        HeatLoss(network, HeatParameters(sigma=0.5, penalty=penalty))(network, _images(), NO_LABELS, _seeded())[
            "penalty"
        ]
        for penalty in ("probabilities", "logits")
    ]
    assert 0 < penalties[0] < penalties[1] / 2


def test_equation_10_adds_noise_of_the_right_size_to_half_of_the_images_and_shows_the_base_none() -> None:
    images = torch.full((400, 1, 3, 4), 0.5)
    noise = add_noise(images, sigma=0.25, share=0.5, generator=_seeded()) - images
    noisy = noise.flatten(1).abs().amax(1) > 0
    assert noisy.sum() == 200
    assert 0 < noisy[:200].sum() < 200
    assert noise[noisy].std().item() == pytest.approx(0.25, rel=0.05)
    seen: list[Tensor] = []
    base, _ = _linear()
    base.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].clone()))
    network, _ = _linear(seed=1)
    HeatLoss(base, HeatParameters(sigma=0.25))(network, images, NO_LABELS, _seeded())
    assert len(seen) == 1
    assert torch.equal(seen[0], images)


def test_labels_change_nothing() -> None:
    network, _ = _linear()
    base, _ = _linear(seed=1)
    method = HeatLoss(base, HeatParameters(sigma=0.25))
    terms = [method(network, _images(), labels, _seeded()) for labels in (torch.zeros(3), torch.arange(3))]
    assert all(torch.equal(terms[0][name], terms[1][name]) for name in ("loss", "distance", "penalty"))


def test_only_the_forward_at_x_moves_the_running_statistics() -> None:
    base = _digits_network().eval()
    images = torch.rand(6, 1, 8, 8, generator=_seeded())
    once, heated = copy.deepcopy(base).train(), copy.deepcopy(base).train()
    once(add_noise(images, sigma=0.25, share=0.5, generator=_seeded(2)))
    HeatLoss(base, HeatParameters(sigma=0.25))(heated, images, NO_LABELS, _seeded(2))
    for (name, expected), (_, found) in zip(once.named_buffers(), heated.named_buffers(), strict=True):
        assert torch.equal(expected, found), name


def test_frozen_statistics_leave_the_outputs_and_the_layers_as_they_were() -> None:
    network = _digits_network().train()
    images = torch.rand(6, 1, 8, 8, generator=_seeded())
    before = copy.deepcopy(network.state_dict())
    with frozen_statistics(network):
        frozen = network(images)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(frozen, network(images))
    assert not torch.equal(
        before["backbone.features.1.running_mean"], network.state_dict()["backbone.features.1.running_mean"]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sigma", 0.0),
        ("sigma", float("nan")),
        ("sigma", float("inf")),
        ("kappa", 0),
        ("delta", -0.1),
        ("noisy_share", 1.5),
        ("coefficient", -1.0),
        ("distance", "cosine"),
        ("penalty", "loss"),
        ("normalisation", "mine"),
        ("estimator", "guesses"),
        ("time_steps", 0),
        ("draws_at_once", 0),
    ],
)
def test_a_parameter_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"^{name}: expected"):
        HeatParameters(**{"sigma": 0.25, name: value})  # type: ignore[arg-type]


class _Dropout(nn.Module):
    """A network without any slope in its images, whose answers are drawn anew in each training pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, K)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.ones_like(images).flatten(1) + 0 * images.flatten(1)
        logits: Tensor = self.layer(nn.functional.dropout(features, 0.5, self.training))
        return logits


@pytest.mark.parametrize("estimator", ["projections", "displacements"])
def test_dropout_is_no_slope(estimator: str) -> None:
    """Other masks at x + δu than at x would give differences of order 1, which are divided by δ."""
    network, p = _Dropout().train(), HeatParameters(sigma=1, kappa=3, delta=0.01, estimator=estimator)
    terms = HeatLoss(copy.deepcopy(network).eval(), p)(network, _images(), NO_LABELS, _seeded())
    assert terms["penalty"] == 0
    assert terms["distance"] > 0
    with pytest.raises(ParameterError, match="draws_at_once: expected 1 for a network that draws at random"):
        HeatLoss(network, replace(p, draws_at_once=2))(network, _images(), NO_LABELS, _seeded())
