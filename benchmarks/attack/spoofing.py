"""Certificate spoofing: inputs near x whose served radius is large and whose provable radius is not.

An adversary does not draw inputs like the calibration images. The served radius depends on the single pass v, which
training has brought close to the Gaussian average only on images like its own: inside an L2 ball, gradients of both
find the inputs where it is not close. Spoofed certificates are evidence about a served graph; they contradict no
theorem.

References:
    Ghiasi, Shafahi and Goldstein (2020), Breaking certified defenses: semantic adversarial examples with spoofed
    robustness certificates (the same aim, against true certificates).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from heatserve.benchmarks.attack.settings import Search

_SMALLEST = 1e-30  # of a probability; Φ⁻¹ of it is −11.5

Penalty = Callable[[Tensor, Tensor], Tensor]
"""From images [N, C, H, W] and classes [N] to [N]: above 0 where a defence would refuse, differentiable."""

Aim = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From images [N, C, H, W] and target classes [N] to what is climbed, differentiable, and what the best point has most
of, both float64 [N]."""

Admit = Callable[[Tensor, Tensor, float], Tensor]
"""See `ascend`."""


@dataclass(frozen=True)
class Victim:
    """What is attacked: functions of images [N, C, H, W] in [0,1], differentiable in them."""

    served: Callable[[Tensor], tuple[Tensor, ...]]
    """The single pass v: its logits [N, K] and served radii [N] (L2, pixels in [0,1])."""
    base: Callable[[Tensor], Tensor]
    """The base classifier f, whose Gaussian average is certified: its logits [N, K]."""
    sigma: float
    """σ of the noise."""


def spoof(
    victim: Victim,
    x: Tensor,
    *,
    epsilon: float,
    generator: torch.Generator,
    search: Search,
    penalty: Penalty | None = None,
    admit: Admit | None = None,
) -> Tensor:
    """Search for images within L2 distance ε of x whose served radius is as far as possible above what can be proven.

    Projected gradient ascent on r(x)/σ + Φ⁻¹(v_c) − Φ⁻¹(mean over m draws of f_c(x + η)) for a class c; r is the served
    radius, whose own gradient vanishes where it is 0 or at its cap. Of all points on the way with a positive radius,
    the one is kept where r(x)/σ is farthest above that mean's Φ⁻¹, for v's class there. (The share of m hard votes, in
    place of the mean, follows the luck of the draws, and found a quarter fewer.)

    Args:
        victim: see `Victim`.
        x: images in [0,1], [N, C, H, W].
        epsilon: ε, L2.
        generator: draws the noise.
        search: see `Search`.
        penalty: above 0 where a defence that the adversary knows refuses a point; such a point is kept only where there
            is no other.
        admit: see `ascend`.

    Returns:
        Images [N, C, H, W] in [0,1], float32: for each the worst point found, or x itself where none was worse.
    """
    with torch.no_grad():
        targets = victim.served(x)[0].topk(search.targets, dim=1).indices

    def aim(point: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return _evaluate(victim, point, target, generator, search.samples, penalty)

    return ascend(aim, x, targets, epsilon=epsilon, steps=search.steps, admit=admit)


def ascend(aim: Aim, x: Tensor, targets: Tensor, *, epsilon: float, steps: int, admit: Admit | None = None) -> Tensor:
    """Projected gradient ascent within L2 distance ε of images x, once towards each of their target classes.

    Args:
        aim: what is climbed, and by what the best point is chosen.
        x: images in [0,1], [N, C, H, W].
        targets: classes, [N, t].
        epsilon: ε, L2.
        steps: of the ascent, for each target.
        admit: from images in the ball around x, x and ε to inputs in it that may be sent, at which alone the aim is
            looked at; None: all of them. The gradient there moves the images behind them (a straight-through
            estimator).

    Returns:
        Images [N, C, H, W]: of all admitted points on the way the one that is kept, or x where all are at −∞.
    """
    best, best_kept = x.clone(), torch.full((len(x),), -torch.inf, dtype=torch.float64)
    for target in targets.T:
        latent = x
        for step in range(steps + 1):
            point = (admit(latent, x, epsilon) if admit else latent).detach().requires_grad_()
            objective, kept = aim(point, target)
            better = kept > best_kept
            best[better], best_kept[better] = point.detach()[better], kept[better]
            if step < steps:
                (gradient,) = torch.autograd.grad(objective.sum(), point)
                latent = project(latent + 2.5 * epsilon / steps * _unit(gradient), x, epsilon)
    return best


def project(point: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """Into the L2 ball of radius ε around x, up to float32 rounding, and into [0,1]."""
    displacement = point.detach() - x
    norm = displacement.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    projected: Tensor = (x + displacement * (epsilon / norm).clamp_max(1.0)).clamp(0, 1)
    return projected


def score(logits: Tensor, classes: Tensor) -> Tensor:
    """Φ⁻¹ of the mean softmax over the draws, for classes [N]; logits [m, N, K] → float64 [N]."""
    log_p = logits.double().log_softmax(-1)
    chosen = torch.zeros_like(log_p[0], dtype=torch.bool).scatter_(1, classes[:, None], value=True)
    p = log_p.masked_fill(~chosen, -torch.inf).logsumexp(-1).exp().mean(0).clamp_min(_SMALLEST)
    rest = log_p.masked_fill(chosen, -torch.inf).logsumexp(-1).exp().mean(0).clamp_min(_SMALLEST)
    return torch.where(p < rest, torch.special.ndtri(p.clamp_max(0.6)), -torch.special.ndtri(rest.clamp_max(0.6)))


def victim_logits(victim: Victim, point: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """f(x + η) for m fresh draws of η, [m, N, K]."""
    noise = torch.randn((samples, *point.shape), generator=generator)
    logits = victim.base((point + victim.sigma * noise).flatten(0, 1))
    return logits.view(samples, len(point), -1)


def _evaluate(
    victim: Victim, point: Tensor, target: Tensor, generator: torch.Generator, samples: int, penalty: Penalty | None
) -> tuple[Tensor, Tensor]:
    """What is climbed, and the gap seen at the point, both [N]; the gap is −inf where there is nothing to spoof."""
    logits, radius = victim.served(point)
    noisy = victim_logits(victim, point, samples, generator)
    objective = radius / victim.sigma + score(logits[None], target) - score(noisy, target)
    label = logits.argmax(1)
    gap = torch.where(radius > 0, radius / victim.sigma - score(noisy, label), -torch.inf)
    if penalty is not None:
        refused = penalty(point, label)
        objective = objective - 10 * refused.clamp_min(0)
        gap = gap - 100 * (refused > 0)  # more than any gap
    return objective, gap.detach()


def _unit(gradient: Tensor) -> Tensor:
    norm: Tensor = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
    return gradient / norm.view(-1, 1, 1, 1)
