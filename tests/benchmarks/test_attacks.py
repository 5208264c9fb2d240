"""Attacks on linear classifiers, whose adversarial distances are known exactly; spoofing of a v that lies by design."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heatserve.benchmarks.attack import pgd_ddn
from heatserve.benchmarks.attack.defences import checks
from heatserve.benchmarks.attack.pgd_ddn import DDN, PGD, NoiseAveraged, TopKMisclassification
from heatserve.benchmarks.attack.settings import Search
from heatserve.benchmarks.attack.spoofing import Victim, project, score, spoof, victim_logits

SIGMA = 0.25


class Linear(nn.Module):
    """Three classes of images [N, 1, 2, 2]: the scores are `slope` times the first three pixels."""

    def __init__(self, slope: float = 20.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        return self.slope * images.flatten(1)[:, :3]


def images() -> Tensor:
    x = torch.tensor([[0.7, 0.4, 0.2, 0.5], [0.3, 0.6, 0.5, 0.5], [0.2, 0.3, 0.8, 0.1]])
    return x.view(3, 1, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "slack"), [(DDN(steps=60), 1.05), (PGD(), 1.05)])
def test_the_distances_found_are_those_to_the_boundary(attack: DDN | PGD, slack: float) -> None:
    x, labels = images(), torch.tensor([0, 1, 2])
    ordered = x.flatten(1)[:, :3].sort(dim=1, descending=True).values
    truth = (ordered[:, 0] - ordered[:, 1]) / 2**0.5
    found = attack(Linear(), x, labels, criterion=TopKMisclassification, epsilon=1.0)
    distance = (found - x).flatten(1).norm(dim=1)
    assert (Linear()(found).argmax(1) != labels).all()
    assert (distance >= truth).all()
    assert (distance <= slack * truth).all()
    nowhere = attack(Linear(), x, labels, criterion=TopKMisclassification, epsilon=0.5 * float(truth.min()))
    assert torch.equal(nowhere, x)


@pytest.mark.parametrize("guess", [0.0, 0.03, 0.3, 3.0, float("inf")])
def test_pgd_ends_at_the_same_radius_wherever_its_search_begins(guess: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = images(), torch.tensor([0, 1, 2])
    expected = PGD()(Linear(), x, labels, criterion=TopKMisclassification, epsilon=4.0)
    monkeypatch.setattr(pgd_ddn, "_linear_distance", lambda *_: torch.full((3,), guess))
    found = PGD()(Linear(), x, labels, criterion=TopKMisclassification, epsilon=4.0)
    assert torch.equal(found, expected)


def test_pgd_searches_where_the_network_has_no_gradient() -> None:
    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 0 * images.flatten(1)[:, :3] + torch.tensor([3.0, 2.0, 1.0])

    x, labels = images(), torch.tensor([0, 1, 2])
    found = PGD(rounds=3)(Flat(), x, labels, criterion=TopKMisclassification, epsilon=1.0)
    assert torch.equal(found[0], x[0])  # never misclassified
    assert ((found - x).flatten(1).norm(dim=1) <= 0.01 + 1e-6).all()  # the others are as they are: the least radius


def test_top_k_success_needs_more_than_a_new_top_class() -> None:
    outputs = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    labels = torch.tensor([0, 1, 2])
    assert TopKMisclassification(labels)(None, outputs).tolist() == [False, True, True]
    assert TopKMisclassification(labels, k=2)(None, outputs).tolist() == [False, False, True]


def test_the_average_over_noise_is_attacked_where_one_pass_is_a_staircase() -> None:
    """f's own gradient is 0 almost everywhere; its Gaussian average has the same boundary, and a gradient."""

    class Staircase(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            hard: Tensor = nn.functional.one_hot(images.flatten(1)[:, :3].argmax(1), 3).float()
            smooth = images.flatten(1)[:, :3]
            return 20 * hard + 3 * smooth

    x, labels = images(), torch.tensor([0, 1, 2])
    averaged = NoiseAveraged(Staircase(), sigma=SIGMA, samples=200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(averaged(x).exp().sum(1), torch.ones(3))
    found = DDN()(averaged, x, labels, criterion=TopKMisclassification, epsilon=2.0)
    assert ((found - x).flatten(1).norm(dim=1) > 0).all()
    assert (Staircase()(found).argmax(1) != labels).any()


def test_the_score_is_the_quantile_of_the_mean_probability_in_both_tails() -> None:
    probabilities = torch.tensor([[[1e-12, 1 - 1e-12]], [[3e-12, 1 - 3e-12]]], dtype=torch.float64)
    logits = probabilities.log()
    low, high = score(logits, torch.tensor([0])), score(logits, torch.tensor([1]))
    torch.testing.assert_close(low, torch.special.ndtri(torch.tensor([2e-12], dtype=torch.float64)))
    torch.testing.assert_close(high, -low, rtol=1e-4, atol=0)
    certain = torch.tensor([[[400.0, -400.0]]], requires_grad=True)
    value = score(certain, torch.tensor([0]))
    assert torch.isfinite(value).all()
    assert torch.isfinite(torch.autograd.grad(value.sum(), certain)[0]).all()


def lying_victim() -> Victim:
    """v and f agree for a fourth pixel up to ½; beyond, v is the surer the larger it is, and f does not look at it."""

    def served(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = Linear()(x) * (1 + 20 * (x.flatten(1)[:, 3:] - 0.5).clamp_min(0))
        return logits, SIGMA * score(logits[None], logits.argmax(1)).clamp(0, 3).float()

    return Victim(served, Linear(), SIGMA)


def test_spoofing_finds_the_direction_in_which_the_single_pass_lies() -> None:
    victim, x = lying_victim(), images()
    generator = torch.Generator().manual_seed(0)
    found = spoof(victim, x, epsilon=0.3, generator=generator, search=Search(steps=20, samples=64, targets=1))
    assert ((found - x).flatten(1).norm(dim=1) <= 0.3 + 1e-6).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert ((found - x).flatten(1)[:, 3] > 0)[:2].all()

    def gap(points: Tensor) -> Tensor:
        logits, radius = victim.served(points)
        return radius / SIGMA - score(victim_logits(victim, points, 2000, generator), logits.argmax(1))

    assert (gap(found) > gap(x) + 0.1)[:2].all()


def test_projection_is_into_the_ball_and_the_box() -> None:
    x = torch.rand(50, 1, 4, 4)
    for epsilon in (0.01, 0.5):
        point = project(x + torch.randn_like(x), x, epsilon)
        assert (point - x).double().flatten(1).norm(dim=1).max() <= epsilon + 1e-6
        assert point.min() >= 0
        assert point.max() <= 1
    assert torch.equal(project(x, x, 0.1), x)


def test_checks_keep_clean_answers_and_refuse_a_v_that_f_does_not_back() -> None:
    victim = lying_victim()
    random = np.random.default_rng(0).random((400, 1, 2, 2), dtype=np.float32)
    clean = torch.from_numpy(random)
    clean[:, 0, 1, 1] = 0.5
    found = {check.name: check for check in checks(victim, clean, samples=(4, 16), seed=0)}
    assert [*found] == [
        "f(x) names the class",
        "4 noisy votes of f agree",
        "v is near f's average over 4 draws",
        "16 noisy votes of f agree",
        "v is near f's average over 16 draws",
        "slope of Φ⁻¹(v)",
    ]
    labels = victim.served(clean)[0].argmax(1)
    spoofed = clean.clone()
    spoofed[:, 0, 1, 1] = 1.0
    near = found["v is near f's average over 16 draws"]
    assert near.keeps(clean, labels).double().mean() > 0.95
    assert near.keeps(spoofed, labels).double().mean() < 0.5
    for check in found.values():
        point = spoofed.clone().requires_grad_()
        penalty = check.penalty(point, labels)
        assert torch.isfinite(torch.autograd.grad(penalty.sum(), point)[0]).all()
    assert (near.penalty(spoofed, labels) > 0).double().mean() > 0.5
    assert found["f(x) names the class"].keeps(clean, labels).all()
    assert not found["f(x) names the class"].keeps(clean, (labels + 1) % 3).any()
    few, many = (found[f"{k} noisy votes of f agree"].keeps(clean, labels).double().mean() for k in (4, 16))
    assert many < few


def test_the_slope_is_that_of_the_score() -> None:
    victim, x = lying_victim(), images()
    x[:, 0, 1, 1] = 0.6  # off the kink
    labels = victim.served(x)[0].argmax(1)
    (slope,) = (d for d in checks(victim, x, samples=(), seed=0) if d.name.startswith("slope"))
    step = 1e-3 * torch.eye(4).view(4, 1, 1, 2, 2)
    ahead, behind = (
        torch.stack([score(victim.served(x + sign * one)[0][None], labels) for one in step]) for sign in (1, -1)
    )
    expected = SIGMA * ((ahead - behind) / 2e-3).norm(dim=0)
    torch.testing.assert_close(slope.statistic(x, labels), expected, rtol=1e-2, atol=0)
