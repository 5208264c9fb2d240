"""Training under Gaussian noise: RandomizedSmoothing's, with labels, and its label-free twin.

References:
    Cohen, Rosenfeld and Kolter (2019), Certified adversarial robustness via randomized smoothing, section 3.3.
    Jeong and Shin (2020), Consistency regularization for certified robustness of smoothed classifiers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatserve.training.methods.parameters import NoiseParameters
from heatserve.training.methods.protocol import Terms, backward, batch_accuracy


@dataclass(frozen=True)
class NoiseLoss:
    """Cross entropy at x + η from the label or, label free, softmax(`start`(x)); and the consistency of answers."""

    start: nn.Module
    parameters: NoiseParameters

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:
        p = self.parameters
        goal = clean_answers(self.start, images) if p.label_free else labels
        logits = logits_under_noise(network, images, p.sigma, p.samples, generator)
        loss = noisy_loss(logits, goal, p.consistency)
        return backward(loss, accuracy=batch_accuracy(logits.flatten(0, 1), _repeat(goal, p.samples)))


def logits_under_noise(
    network: nn.Module, images: Tensor, sigma: float, samples: int, generator: torch.Generator
) -> Tensor:
    """network(x + η) [m, N, K] for m draws of η ~ N(0, σ²I) for each of N images."""
    copies = _repeat(images, samples)
    logits: Tensor = network(copies + sigma * gaussian(copies, generator))
    return logits.view(samples, len(images), -1)


def noisy_loss(logits: Tensor, goal: Tensor, consistency: float) -> Tensor:
    """Mean cross entropy from `goal`, labels [N] or probabilities [N, K], to noisy logits [m, N, K], plus consistency.

    The consistency term is λ·mean KL(p̄ ‖ p_j), with λ the `consistency` and p̄ the mean of an image's m answers p_j
    (Jeong and Shin 2020, equation (8)).
    """
    loss = functional.cross_entropy(logits.flatten(0, 1), _repeat(goal, len(logits)))
    if not consistency:
        return loss
    log_p = logits.log_softmax(2)
    mean = log_p.exp().mean(0, keepdim=True)
    divergence = (mean * (mean.clamp_min(1e-12).log() - log_p)).sum(2).mean()
    return loss + consistency * divergence


def _repeat(rows: Tensor, times: int) -> Tensor:
    return rows.repeat(times, *[1] * (rows.dim() - 1))


def gaussian(like: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, I) of the shape, device and memory layout of `like`."""
    return torch.empty_like(like).normal_(generator=generator)


def clean_answers(network: nn.Module, images: Tensor) -> Tensor:
    """softmax(network(x)) [N, K], without a gradient."""
    with torch.no_grad():
        answers: Tensor = network(images).softmax(1)
    return answers
