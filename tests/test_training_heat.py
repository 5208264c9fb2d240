"""The heat loss: exact on linear networks, label free, and gentle with BatchNorm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from training.architectures import build_network
from training.heat import HeatError, HeatLoss, HeatParameters, add_noise, frozen_statistics, gradient_penalty

K, D = 5, 12


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


def _digits_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build_network("digits_cnn", num_classes=10, input_shape=(1, 8, 8), mean=(0.5,), std=(0.5,))


@pytest.mark.parametrize(("normalisation", "kappa"), [("paper", 3), ("paper", 2000), ("unbiased", 2000)])
def test_the_penalty_of_a_linear_network_has_the_mean_that_it_promises(normalisation: str, kappa: int) -> None:
    network, weight = _linear()
    repeats = 2000 // kappa
    total = torch.zeros(3)
    for seed in range(repeats):
        total += gradient_penalty(
            network, _images(), kappa=kappa, delta=0.1, normalisation=normalisation, generator=_seeded(seed)
        )
    expected = weight.square().sum() * (kappa / K if normalisation == "paper" else 1)
    assert torch.allclose(total / repeats, expected.expand(3), rtol=0.05)


def test_one_draw_on_a_linear_network_is_the_projected_gradient_exactly() -> None:
    network, weight = _linear()
    w = torch.randn((3, K), generator=_seeded(4)) / K**0.5
    found = gradient_penalty(network, _images(), kappa=1, delta=0.3, normalisation="paper", generator=_seeded(4))
    assert torch.allclose(found, (w @ weight).square().sum(1), rtol=1e-4)


def test_the_penalty_is_zero_where_the_gradient_vanishes() -> None:
    network, weight = _linear()
    nn.init.zeros_(weight)
    found = gradient_penalty(network, _images(), kappa=2, delta=0.1, normalisation="paper", generator=_seeded())
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.tolist() == [0, 0, 0]
    assert torch.isfinite(weight.grad if weight.grad is not None else torch.tensor(torch.nan)).all()


def test_directions_are_detached_and_the_gradient_in_the_weights_is_right() -> None:
    """On a linear network ∂/∂W of (w·Wĝ)² with ĝ held still is 2(w·Wĝ)·wĝᵀ; with w·Wĝ = ‖Wᵀw‖ it is 2wwᵀW."""
    network, weight = _linear()
    w = torch.randn((1, K), generator=_seeded(4)) / K**0.5
    gradient_penalty(
        network, _images(1), kappa=1, delta=0.3, normalisation="paper", generator=_seeded(4)
    ).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert torch.allclose(weight.grad, 2 * w.T @ w @ weight.detach(), rtol=1e-3, atol=1e-4)


def test_outputs_at_hand_save_the_forward_at_x() -> None:
    network, _ = _linear()
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    x = _images().requires_grad_()
    kwargs = {"kappa": 3, "delta": 0.1, "normalisation": "paper"}
    given = gradient_penalty(network, x, generator=_seeded(), outputs=network(x), **kwargs)  # type: ignore[arg-type]
    assert len(calls) == 2  # at x, and at all displaced images at once
    assert torch.equal(given, gradient_penalty(network, x, generator=_seeded(), **kwargs))  # type: ignore[arg-type]


def test_equation_15_on_a_linear_network() -> None:
    """½‖v(x) − f(x)‖² + c‖∇v‖², with c‖∇v‖² = c‖W‖² in the mean over draws."""
    network, weight = _linear()
    base, _ = _linear(seed=1)
    heat = HeatParameters(
        sigma=0.5, kappa=1000, distance="logits", noisy_share=0, normalisation="unbiased", coefficient=0.7
    )
    loss = HeatLoss(base, heat)(network, _images(), torch.zeros(3), _seeded())
    distance = 0.5 * (network(_images()) - base(_images())).square().sum(1).mean()
    assert torch.allclose(loss.terms["distance"], distance, rtol=1e-4)
    assert torch.allclose(loss.terms["penalty"], 0.7 * weight.square().sum(), rtol=0.05)
    assert torch.allclose(loss.total, loss.terms["distance"] + loss.terms["penalty"])


def test_equation_3_compares_probabilities_and_the_coefficient_weighs_the_penalty() -> None:
    network, _ = _linear()
    base, _ = _linear(seed=1)
    plain, heavy = (HeatParameters(sigma=0.5, noisy_share=0, coefficient=c) for c in (None, 0.125))
    losses = [HeatLoss(base, heat)(network, _images(), torch.zeros(3), _seeded()) for heat in (plain, heavy)]
    distance = 0.5 * (network(_images()).softmax(1) - base(_images()).softmax(1)).square().sum(1).mean()
    assert torch.allclose(losses[0].terms["distance"], distance, rtol=1e-4)
    assert torch.allclose(100 * losses[0].terms["penalty"], losses[1].terms["penalty"])


def test_the_default_weighs_the_gradient_as_the_paper_did_on_imagenet() -> None:
    """κ = 10 draws of K = 1000 classes: "paper" with σ²/2 and the default are the same number."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(D, 1000))
    printed = HeatParameters(sigma=0.5, normalisation="paper", coefficient=0.5**2 / 2)
    penalties = [
        HeatLoss(network, heat)(network, _images(), torch.zeros(3), _seeded()).terms["penalty"]
        for heat in (HeatParameters(sigma=0.5), printed)
    ]
    assert torch.allclose(penalties[0], penalties[1])


def test_a_penalty_on_probabilities_is_smaller_than_one_on_logits() -> None:
    """The softmax contracts: its Jacobian has norm at most ½."""
    network, _ = _linear()
    penalties = [
        HeatLoss(network, HeatParameters(sigma=0.5, penalty=penalty))(
            network, _images(), torch.zeros(3), _seeded()
        ).terms["penalty"]
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
    HeatLoss(base, HeatParameters(sigma=0.25))(network, images, torch.zeros(400), _seeded())
    assert len(seen) == 1
    assert torch.equal(seen[0], images)


def test_labels_change_nothing() -> None:
    network, _ = _linear()
    base, _ = _linear(seed=1)
    method = HeatLoss(base, HeatParameters(sigma=0.25))
    losses = [method(network, _images(), labels, _seeded()).total for labels in (torch.zeros(3), torch.arange(3))]
    assert torch.equal(losses[0], losses[1])


def test_only_the_forward_at_x_moves_the_running_statistics() -> None:
    base = _digits_network().eval()
    images = torch.rand(6, 1, 8, 8, generator=_seeded())
    once, heated = copy.deepcopy(base).train(), copy.deepcopy(base).train()
    once(add_noise(images, sigma=0.25, share=0.5, generator=_seeded(2)))
    HeatLoss(base, HeatParameters(sigma=0.25))(heated, images, torch.zeros(6), _seeded(2))
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
    ],
)
def test_a_parameter_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(HeatError, match=f"^{name}: expected"):
        HeatParameters(**{"sigma": 0.25, name: value})  # type: ignore[arg-type]
