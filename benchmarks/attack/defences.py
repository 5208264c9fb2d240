"""Defences against inputs whose served radius is too large: what each costs, and what it stops, is measured.

A check computes a statistic of an image and of v's class for it, which is large where something is wrong; above a
threshold the radius becomes 0. Its passes come on top of the one that is served. An adversary who knows the check
descends its `penalty`. A discount takes the same amount off every radius and needs no pass; a check is worth its passes
only where it stops more than a discount that costs as much certified accuracy.

No defence is part of a served graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from heatserve.benchmarks.attack.spoofing import Penalty, Victim, score, victim_logits

Statistic = Callable[[Tensor, Tensor], Tensor]
"""From images [N, C, H, W] and v's classes [N] to float64 [N]."""

_ADVERSARYS_SAMPLES = 8
"""Draws with which an adversary estimates a statistic that is random on the server."""
_LOST = 0.02
"""Share of clean images with a positive radius that a threshold without a natural value refuses."""


@dataclass(frozen=True)
class Check:
    """Takes the radius from every answer whose `statistic` is above `threshold`."""

    name: str
    passes: float
    """Further forward passes of f or v for an answer; a backward pass counts as two."""
    statistic: Statistic
    penalty: Penalty
    """Above 0 where the adversary expects to be refused: logits, Φ⁻¹ or a slope, as the check has it."""
    threshold: float

    def keeps(self, images: Tensor, labels: Tensor) -> Tensor:
        """Which radii stay, bool [N]."""
        return self.statistic(images, labels).detach() <= self.threshold


@dataclass(frozen=True)
class Discount:
    """Takes `sigmas`·σ off every radius, down to 0."""

    sigmas: float

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"radius − {self.sigmas:g} σ"


def checks(victim: Victim, images: Tensor, *, samples: Sequence[int], seed: int) -> list[Check]:
    """The checks to compare.

    Args:
        victim: see `Victim`.
        images: clean images [N, C, H, W] in [0,1] that nothing else is measured on.
        samples: k, noisy passes of f, for the checks that make any.
        seed: decides the noise.
    """
    noise = torch.Generator().manual_seed(seed)
    found = [_agreement(victim)]
    for k in samples:
        found += [_votes(victim, k, noise), _calibrated(_average(victim, k, noise), victim, images)]
    return [*found, _calibrated(_slope(victim), victim, images)]


def _agreement(victim: Victim) -> Check:
    """f's answer to x itself, without noise, is v's class."""

    def margin(images: Tensor, labels: Tensor) -> Tensor:
        logits = victim.base(images).double()
        chosen = logits.gather(1, labels[:, None])[:, 0]
        return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - chosen

    return Check("f(x) names the class", 1, margin, margin, 0.0)


def _votes(victim: Victim, k: int, noise: torch.Generator) -> Check:
    """f answers each of k noisy copies of x with v's class.

    The adversary aims at a chance of ½ to pass: at an average of f of (½)^(1/k).
    """
    aim = float(torch.special.ndtri(torch.tensor(0.5 ** (1 / k), dtype=torch.float64)))

    def against(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return (victim_logits(victim, images, k, noise).argmax(-1) != labels).double().mean(0)

    def penalty(images: Tensor, labels: Tensor) -> Tensor:
        return aim - score(victim_logits(victim, images, _ADVERSARYS_SAMPLES, noise), labels)

    return Check(f"{k} noisy votes of f agree", k, against, penalty, 0.0)


def _average(victim: Victim, k: int, noise: torch.Generator) -> Check:
    """Φ⁻¹ of v's probability is not far above Φ⁻¹ of f's mean probability over k noisy copies of x."""

    def excess(draws: int, images: Tensor, labels: Tensor) -> Tensor:
        logits, _ = victim.served(images)
        return score(logits[None], labels) - score(victim_logits(victim, images, draws, noise), labels)

    return Check(
        f"v is near f's average over {k} draws",
        k,
        lambda images, labels: excess(k, images, labels),
        lambda images, labels: excess(max(k, _ADVERSARYS_SAMPLES), images, labels),
        0.0,
    )


def _slope(victim: Victim) -> Check:
    """‖∇Φ⁻¹(v)‖·σ is no larger than on clean images; a true Gaussian average has at most 1 (Salman et al. 2019)."""

    def slope(images: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            point = images if images.requires_grad else images.detach().requires_grad_()
            value = score(victim.served(point)[0][None], labels).sum()
            (gradient,) = torch.autograd.grad(value, point, create_graph=images.requires_grad)
        norm: Tensor = gradient.flatten(1).norm(dim=1).double()
        return victim.sigma * norm

    return Check("slope of Φ⁻¹(v)", 2, slope, slope, 1.0)


def _calibrated(check: Check, victim: Victim, images: Tensor) -> Check:
    """With the threshold that refuses a share `_LOST` of the positive radii, which its penalty is then relative to."""
    with torch.no_grad():
        logits, radius = victim.served(images)
    kept = radius > 0
    statistic = check.statistic(images[kept], logits[kept].argmax(1)).detach()
    threshold = float(statistic.quantile(1 - _LOST)) if len(statistic) else check.threshold
    return replace(check, threshold=threshold, penalty=lambda images, labels: check.penalty(images, labels) - threshold)
