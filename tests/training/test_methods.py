"""Training under noise and adversarial training: each loss against what is known of it exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from small_training import (
    digit_images,
    digits_network,
    gradient_of,
    noisy_cross_entropy,
    seeded,
    seen_by,
)
from torch import Tensor
from torch.nn import functional

from heatserve.training.methods.adversarial import AdversarialLoss, frozen, l2_pgd
from heatserve.training.methods.average import Pair
from heatserve.training.methods.parameters import (
    AverageParameters,
    HeatParameters,
    MadryParameters,
    NoiseParameters,
    ParameterError,
    Parameters,
    SmoothAdvParameters,
)

SIGMA = 0.5


LABELS = torch.tensor([0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize(("samples", "consistency"), [(1, 0.0), (3, 0.0), (3, 5.0)])
@pytest.mark.parametrize("label_free", [False, True])
def test_training_under_noise_is_cross_entropy_on_noisy_images(
    label_free: bool, samples: int, consistency: float
) -> None:
    """From the label, or from the starting network's softmax at the clean image; N(0, σ²I) is added to the pixels."""
    start, network = digits_network(2).eval(), digits_network()
    shown_to_start, seen = seen_by(start), seen_by(network)
    expected = copy.deepcopy(network)
    p = NoiseParameters(sigma=SIGMA, label_free=label_free, samples=samples, consistency=consistency)
    terms = p.loss(start)(network, digit_images(), LABELS, seeded())
    assert len(shown_to_start) == label_free
    assert all(torch.equal(images, digit_images()) for _, images in shown_to_start)
    ((training, noisy),) = seen
    assert training
    target = start(digit_images()).softmax(1).detach() if label_free else functional.one_hot(LABELS, 10).float()
    loss = noisy_cross_entropy(expected(noisy).view(samples, 6, 10), target, consistency)
    loss.backward()  # type: ignore[no-untyped-call]
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.allclose(gradient_of(network), gradient_of(expected), rtol=1e-3, atol=1e-5)
    noise = noisy - digit_images().repeat(samples, 1, 1, 1)
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
    method = parameters.loss(digits_network(2).eval())
    gradients = []
    for labels in (LABELS, LABELS.flip(0)):
        network = (
            Pair(digits_network(), digits_network()) if isinstance(parameters, AverageParameters) else digits_network()
        )
        method(network, digit_images(), labels, seeded())
        gradients.append(gradient_of(network))
    assert gradients[0].norm() > 0
    assert torch.equal(*gradients) != uses_labels


def _norms(displacement: Tensor) -> Tensor:
    norms: Tensor = displacement.flatten(1).norm(dim=1)
    return norms


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 5.0])
def test_pgd_stays_in_the_ball_and_in_the_box_and_raises_the_loss(epsilon: float) -> None:
    network, x = digits_network().eval(), digit_images()

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
    gradient = torch.randn(6, 1, 8, 8, generator=seeded(3)) * torch.logspace(-3, 3, 6)[:, None, None, None]
    x = torch.full((6, 1, 8, 8), 0.5)
    attacked = l2_pgd(lambda images: (gradient * images).sum(), x, epsilon=0.4, steps=steps)
    expected = x + 0.4 * gradient / _norms(gradient)[:, None, None, None]
    assert expected.min() > 0
    assert expected.max() < 1
    assert torch.allclose(attacked, expected, atol=1e-5)


def test_pgd_finds_the_corner_of_the_box_that_a_linear_loss_asks_for() -> None:
    signs = torch.randn(6, 1, 8, 8, generator=seeded(3)).sign()
    attacked = l2_pgd(lambda images: (signs * images).sum(), digit_images(), epsilon=1000.0, steps=4)
    assert torch.equal(attacked, (signs + 1) / 2)


def test_pgd_finds_a_maximiser_inside_the_ball() -> None:
    """Up to the length of its last step."""
    x = torch.full((6, 1, 8, 8), 0.5)
    offset = torch.randn(6, 1, 8, 8, generator=seeded(3))
    best = x + 0.3 * offset / _norms(offset)[:, None, None, None]
    attacked = l2_pgd(lambda images: -(images - best).square().sum(), x, epsilon=1.0, steps=40)
    assert (_norms(attacked - best) <= 2 / 40 + 1e-5).all()


def test_pgd_stays_where_the_gradient_vanishes() -> None:
    assert torch.equal(l2_pgd(lambda images: 0 * images.sum(), digit_images(), epsilon=1.0, steps=3), digit_images())


@pytest.mark.parametrize(("sigma", "samples"), [(0.0, 1), (SIGMA, 1), (SIGMA, 3)], ids=["madry", "one", "three"])
def test_adversarial_training_attacks_in_eval_mode_and_trains_on_the_same_noise(sigma: float, samples: int) -> None:
    """Only the last forward counts for BatchNorm; noise is the same in every step of the attack and in training."""
    network = digits_network()
    expected = copy.deepcopy(network)
    seen = seen_by(network)
    terms = AdversarialLoss(epsilon=0.5, steps=3, sigma=sigma, samples=samples)(
        network, digit_images(), LABELS, seeded()
    )
    assert [training for training, _ in seen] == [False, False, False, True]
    first, last = seen[0][1], seen[-1][1]
    noise = first - digit_images().repeat(samples, 1, 1, 1)
    assert noise.std().item() == pytest.approx(sigma, rel=0.1)
    displacement = (last - first).view(samples, *digit_images().shape)
    assert torch.allclose(displacement, displacement[:1].expand_as(displacement), atol=1e-5)  # of the image, not copy
    assert (_norms(displacement[0]) <= 0.5 + 1e-5).all()
    loss = functional.cross_entropy(expected(last), LABELS.repeat(samples))
    loss.backward()  # type: ignore[no-untyped-call]
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.equal(gradient_of(network), gradient_of(expected))
    for (name, found), (_, wanted) in zip(network.named_buffers(), expected.named_buffers(), strict=True):
        assert torch.equal(found, wanted), name


def test_smoothadv_attacks_the_log_of_the_mean_probability() -> None:
    """Equation (6): one step of length 2ε, cut to ε, along the gradient of −log(mean softmax_y)."""
    network = digits_network()
    with torch.no_grad():
        network.get_parameter("backbone.linear.weight").mul_(30)  # the mean of logarithms is something else now
    attacker = copy.deepcopy(network).eval()
    seen = seen_by(network)
    images = 0.25 + 0.5 * digit_images()
    AdversarialLoss(epsilon=0.01, steps=1, sigma=SIGMA, samples=3)(network, images, LABELS, seeded())
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
    network = digits_network()
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseParameters(sigma=0.0), "^sigma: expected a number above 0, got 0.0"),
        (lambda: HeatParameters(sigma=64.0), r"^sigma: expected at most 2, .* got 64; .* that is 0.251"),
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
