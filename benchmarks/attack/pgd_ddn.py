"""PGD and DDN in L2, as the paper runs them: against the single pass, and against an average over noise.

The algorithms are foolbox's. What counts as success is an object of its own (`TopKMisclassification`), and so is what
is attacked: a network, or a `NoiseAveraged` one. What an attack returns is a candidate: `distances.py` judges each
again, the single pass by the graph that is served, the smoothed classifier by Monte Carlo.

References:
    Madry et al. (2018), Towards deep learning models resistant to adversarial attacks (PGD).
    Rony et al. (2019), Decoupling direction and norm for efficient gradient-based L2 adversarial attacks (DDN).
    Salman et al. (2019), Provably robust deep learning via adversarially trained smoothed classifiers, equation (6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from eagerpy.astensor import astensor_
from foolbox.attacks.ddn import DDNAttack
from foolbox.attacks.projected_gradient_descent import L2ProjectedGradientDescentAttack
from foolbox.criteria import Misclassification
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from heatserve.benchmarks.records.paper import NEAREST_SHARE

Criterion = Callable[[Tensor], Misclassification]
"""Makes, from the classes [N] that an attack is to change, the rule for what counts as changed."""


class TopKMisclassification(Misclassification):  # type: ignore[misc]
    """Success: the class [N] is not among the k with the largest outputs. k = 1 is `Misclassification`."""

    def __init__(self, labels: Tensor, *, k: int = 1) -> None:
        super().__init__(labels)
        self.k = k

    def __call__(self, perturbed: Any, outputs: Any) -> Any:  # noqa: ARG002
        """Which outputs [N, K] are successes, bool [N]."""
        scores, restore = astensor_(outputs)
        top = scores.topk(self.k)[1]
        return restore((top != self.labels.expand_dims(-1)).all(-1))


class NoiseAveraged(nn.Module):
    """log of the mean over n draws of softmax f(x + η), [N, K]: what (9) attacks, each call with fresh draws.

    Its cross entropy is Salman et al.'s (6), of the averaged probabilities; the paper's (9), read literally, averages
    the gradients of n cross entropies, which weighs the draws that f still answers rightly less.
    """

    def __init__(self, base: nn.Module, *, sigma: float, samples: int, generator: torch.Generator) -> None:
        super().__init__()
        self._base, self._sigma, self._samples, self._generator = base, sigma, samples, generator

    def forward(self, images: Tensor) -> Tensor:
        """log E softmax for images [N, C, H, W]."""
        noise = torch.randn((self._samples, *images.shape), generator=self._generator)
        logits = self._base((images + self._sigma * noise).flatten(0, 1)).view(self._samples, len(images), -1)
        log_mean: Tensor = logits.log_softmax(-1).logsumexp(0) - math.log(self._samples)
        return log_mean


@dataclass(frozen=True)
class DDN:
    """Decoupled direction and norm: one run that shrinks the perturbation by a twentieth a step while it succeeds.

    The first step looks at the image itself, the second at an L2 distance of 1.05, so that 20 steps come no nearer than
    1.05·0.95¹⁸ ≈ 0.42 (`ddn_nearest`), but for pixels at the ends of their range.
    """

    steps: int = 20

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *, criterion: Criterion, epsilon: float
    ) -> Tensor:
        """The nearest successes found within ε of images [N, C, H, W] in [0,1]; the image itself where none was.

        Against an average over noise the nearest success is what a lucky draw misclassified, which another draw need
        not do: it is returned all the same, as a candidate.
        """
        found, _, _ = DDNAttack(steps=self.steps)(_model(network), images, criterion(labels), epsilons=epsilon)
        near = (found - images).flatten(1).norm(dim=1) <= epsilon
        return torch.where(near.view(-1, 1, 1, 1), found, images)


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent in a ball of fixed radius, and a bisection for the smallest where it succeeds.

    The 2^rounds − 1 radii go from ε/100 to ε in geometric progression, each 1.037 times the one before by default. The
    search begins at the radius where a linear network would change its answer and widens from there: about five runs
    of `steps` steps an image (a ResNet-20 on CIFAR-10), where a plain bisection takes `rounds`.
    """

    steps: int = 20
    rounds: int = 7

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *, criterion: Criterion, epsilon: float
    ) -> Tensor:
        """As `DDN`: the nearest successes found. Steps are 2.5/steps of the radius long and start at the image."""
        radii = torch.logspace(math.log10(NEAREST_SHARE), 0, 2**self.rounds - 1) * epsilon
        model, found = _model(network), images.clone()
        low, high = torch.zeros(len(images), dtype=torch.long), torch.full((len(images),), len(radii))
        guess = torch.searchsorted(radii, _linear_distance(network, images, labels)).clamp(max=len(radii) - 1)
        reach = 0
        while (low < high).any():  # the first radius that succeeds is in low … high; high past the end is none
            chosen = (low < high).nonzero()[:, 0]
            middle = ((low + high) // 2).clamp(guess - reach, guess + reach)[chosen]
            changed, reach = criterion(labels[chosen]), max(4, 2 * reach)
            each: Any = astensor_(radii[middle])[0]  # foolbox's arithmetic spreads a radius for each image
            step = 2.5 / self.steps * each.reshape((-1, 1, 1, 1))
            attack = L2ProjectedGradientDescentAttack(abs_stepsize=step, steps=self.steps, random_start=False)
            tried = attack.run(model, images[chosen], changed, epsilon=each)
            with torch.no_grad():
                success = changed(tried, network(tried))
            found[chosen[success]] = tried[success]
            high[chosen[success]], low[chosen[~success]] = middle[success], middle[~success] + 1
        return found


def _linear_distance(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """How far the nearest other class is by the gradient at the image, [N]; 0 where the label is not the class."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits = network(x)
        own = logits.gather(1, labels[:, None])[:, 0]
        margin = own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad(margin.sum(), x)
    distance: Tensor = margin.detach().clamp(min=0) / gradient.flatten(1).norm(dim=1)
    return distance.nan_to_num(nan=torch.inf)


def _model(network: nn.Module) -> PyTorchModel:
    return PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
