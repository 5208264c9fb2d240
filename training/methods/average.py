"""Single-pass regression on a Gaussian average: v(x) ≈ E softmax(f(x + η)), f trained under noise, no labels.

½‖v(x) − f(x + η)‖² has the minimiser E f(x + η), and so has the cross entropy from f's noisy answer to v: regression on
noisy answers is heat smoothing at finite σ. v is served, f is what Monte Carlo certifies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from heatserve.training.methods.choices import DISTANCES, TARGETS
from heatserve.training.methods.noise import clean_answers, logits_under_noise, noisy_loss
from heatserve.training.methods.parameters import AverageParameters
from heatserve.training.methods.protocol import Terms, batch_accuracy


class Pair(nn.Module):
    """The networks f (`base`) and v (`single_pass`), which are trained side by side."""

    def __init__(self, base: nn.Module, single_pass: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.single_pass = single_pass

    def forward(self, images: Tensor) -> Tensor:
        """What is served: v(x)."""
        logits: Tensor = self.single_pass(images)
        return logits


@dataclass(frozen=True)
class AverageLoss:
    """The loss of f at x + η, unless it is frozen, plus the distance of v at x from the average of f's answers."""

    start: nn.Module
    parameters: AverageParameters

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:  # noqa: ARG002
        assert isinstance(network, Pair)
        p = self.parameters
        terms: dict[str, Tensor] = {}
        if p.frozen_base:
            with torch.no_grad():
                answers = logits_under_noise(self.start, images, p.sigma, p.samples, generator)
        else:
            answers = logits_under_noise(network.base, images, p.sigma, p.samples, generator)
            terms["base_loss"] = noisy_loss(answers, clean_answers(self.start, images), p.consistency)
            terms["base_loss"].backward()  # type: ignore[no-untyped-call]
        mean = TARGETS[p.target](answers.detach()).mean(0)
        logits = network.single_pass(images)
        terms["single_pass_loss"] = DISTANCES[p.distance](logits, mean)
        terms["agreement"] = batch_accuracy(logits, mean)
        terms["single_pass_loss"].backward()  # type: ignore[no-untyped-call]
        loss = terms["single_pass_loss"] + terms.get("base_loss", 0.0)
        return {name: term.detach() for name, term in {"loss": loss, **terms}.items()}
