"""Adversarial training in the L2 ball: Madry's, and SmoothAdv, which attacks the average over noise.

References:
    Madry et al. (2018), Towards deep learning models resistant to adversarial attacks.
    Salman et al. (2019), Provably robust deep learning via adversarially trained smoothed classifiers, equation (6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatserve.training.methods.noise import gaussian
from heatserve.training.methods.protocol import Terms, backward, batch_accuracy


@dataclass(frozen=True)
class AdversarialLoss:
    """Mean over m noisy copies of −log softmax(v(x′ + η))_y, x′ = x + the displacement that PGD finds."""

    epsilon: float
    steps: int
    sigma: float = 0.0
    samples: int = 1

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:
        copies = images.repeat(self.samples, 1, 1, 1)
        noise = self.sigma * gaussian(copies, generator) if self.sigma else torch.zeros_like(copies)
        noise = noise.view(self.samples, *images.shape)

        def averaged_loss(x: Tensor) -> Tensor:
            probabilities = network((x + noise).flatten(0, 1)).log_softmax(1).view(self.samples, len(x), -1)
            return functional.nll_loss(probabilities.logsumexp(0) - math.log(self.samples), labels, reduction="sum")

        with frozen(network):
            attacked = l2_pgd(averaged_loss, images, epsilon=self.epsilon, steps=self.steps)
        logits = network((attacked + noise).flatten(0, 1))
        labels = labels.repeat(self.samples)
        return backward(functional.cross_entropy(logits, labels), accuracy=batch_accuracy(logits, labels))


def l2_pgd(loss: Callable[[Tensor], Tensor], x: Tensor, *, epsilon: float, steps: int) -> Tensor:
    """Projected gradient ascent on `loss` from x [N, …], in the L2 ball of radius ε and in [0,1]; detached."""
    displacement = torch.zeros_like(x)
    for _ in range(steps):
        point = (x + displacement).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(point), point)
        displacement = displacement + 2 * epsilon / steps * gradient / _norm(gradient).clamp_min(1e-12)
        displacement = displacement * (epsilon / _norm(displacement).clamp_min(1e-12)).clamp_max(1.0)
        displacement = (x + displacement).clamp(0, 1) - x
    return x + displacement


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """The network in eval mode and without gradients of its parameters, as it is attacked."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    training = network.training
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        network.train(training)
        for parameter in parameters:
            parameter.requires_grad_(True)


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norm.view(-1, *[1] * (x.dim() - 1))
