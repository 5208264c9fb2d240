"""Searches against the tiers: inputs of 8 bits that claim too much, whose class is another and confirmed, or that
abstain.

All end on the grid of 8-bit pixels, where the noise of the tiers is sound in floating point. They follow gradients of
both graphs, averaged over noise that is drawn afresh at every step (expectation over transformations, as in SmoothAdv):
the noise of the request that will be sent is not known.

References:
    Athalye, Engstrom, Ilyas and Kwok (2018), Synthesizing robust adversarial examples (expectation over
    transformations). Salman et al. (2019), Provably robust deep learning via adversarially trained smoothed classifiers
    (SmoothAdv).
"""

from __future__ import annotations

import torch
from torch import Tensor

from heatserve.benchmarks.attack.settings import Search
from heatserve.benchmarks.attack.spoofing import Victim, ascend, score, spoof, victim_logits
from heatserve.certification.noise import LEVELS

_SURE = 3.0  # Φ⁻¹ of a single pass's probability above which more of it serves no larger radius
_SCALES = torch.linspace(2, 0, 61)


def on_grid(latent: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """Images of 8 bits, nearer to the 8-bit images x than ε, in the direction of images `latent` in the ball around x.

    Rounding alone would leave a small ball: in many dimensions it adds a change of its own. So the displacement is
    scaled before it is rounded, by the largest of some factors that ends within ε; small ones round to fewer pixels.
    """
    start, displacement = x.double() * LEVELS, (latent - x).double() * LEVELS
    best, found = start.round(), torch.zeros(len(x), dtype=torch.bool)
    for scale in _SCALES:
        levels = (start + scale * displacement).round().clamp(0, LEVELS)
        fits = ((levels - start).flatten(1).norm(dim=1) < epsilon * LEVELS) & ~found
        best[fits], found = levels[fits], found | fits
        if found.all():
            break
    return best.float() / LEVELS


def spoofed(victim: Victim, x: Tensor, *, epsilon: float, generator: torch.Generator, search: Search) -> Tensor:
    """8-bit inputs whose served radius is as far above what can be proven as possible, whatever it is; see `spoof`."""
    return spoof(victim, x, epsilon=epsilon, generator=generator, search=search, admit=on_grid)


def overclaim(
    victim: Victim, x: Tensor, *, radius: float, epsilon: float, generator: torch.Generator, search: Search
) -> Tensor:
    """8-bit inputs whose served radius is at least r, and where f votes for v's class as rarely as possible.

    Args:
        radius: r; more of it wins nothing.
        victim, x, epsilon, generator, search: see `another_class`; the targets are v's most probable classes.
    """
    with torch.no_grad():
        targets = victim.served(x)[0].topk(search.targets, dim=1).indices
    enough = radius / victim.sigma

    def aim(point: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits, served = victim.served(point)
        noisy, label = _noisy(victim, point, generator, search), logits.argmax(1)
        claimed = served.double() / victim.sigma
        objective = (
            2 * claimed.clamp_max(enough + 0.1) + score(logits[None], target).clamp_max(_SURE) - score(noisy, target)
        )
        kept = torch.where(claimed >= enough - 1e-6, -score(noisy, label), claimed - 100)
        return objective, kept.detach()

    return ascend(aim, x, targets, epsilon=epsilon, steps=search.steps, admit=on_grid)


def another_class(
    victim: Victim, x: Tensor, classes: Tensor, *, epsilon: float, generator: torch.Generator, search: Search
) -> Tensor:
    """Inputs that v answers with another class than g's at x, and for which f votes under noise as often as possible.

    Args:
        victim: see `Victim`.
        x: images in [0,1] of 8 bits, [N, C, H, W].
        classes: of the smoothed classifier g at x, [N].
        epsilon: ε, L2.
        generator: draws the noise.
        search: see `Search`; the targets are v's most probable other classes.

    Returns:
        8-bit images [N, C, H, W] in [0,1]. Where v never answers the other class, the one where it is nearest to that.
    """
    with torch.no_grad():
        others = victim.served(x)[0].scatter(1, classes[:, None], -torch.inf)

    def aim(point: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits, _ = victim.served(point)
        single, votes = score(logits[None], target), score(_noisy(victim, point, generator, search), target)
        kept = torch.where(logits.argmax(1) == target, votes, single - 100)  # less than any score of votes
        return single.clamp_max(_SURE) + votes, kept.detach()

    targets = others.topk(search.targets, dim=1).indices
    return ascend(aim, x, targets, epsilon=epsilon, steps=search.steps, admit=on_grid)


def abstention(
    victim: Victim, x: Tensor, classes: Tensor, *, epsilon: float, generator: torch.Generator, search: Search
) -> Tensor:
    """8-bit inputs at which f votes as rarely as possible for g's class at x; see `another_class`."""

    def aim(point: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        against = -score(_noisy(victim, point, generator, search), target)
        return against, against.detach()

    return ascend(aim, x, classes[:, None], epsilon=epsilon, steps=search.steps, admit=on_grid)


def _noisy(victim: Victim, point: Tensor, generator: torch.Generator, search: Search) -> Tensor:
    return victim_logits(victim, point, search.samples, generator)
