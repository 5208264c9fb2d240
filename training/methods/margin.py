"""Cross entropy with a margin, for networks whose logits are 1-Lipschitz."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatserve.training.methods.parameters import require
from heatserve.training.methods.protocol import Terms, backward, batch_accuracy


@dataclass(frozen=True)
class Margin:
    """T·CE((f(x) − 2√2·ε·e_y)/T, y): the loss of Prach and Lampert (2022).

    A radius of ε is certified where the logit of y is √2·ε above the others; the loss asks for twice that.

    Attributes:
        epsilon: ε, L2, pixels in [0,1].
        temperature: T.
        teacher: y is what this network says of the image that is learned from, if there is one, and not the label.
    """

    epsilon: float
    temperature: float
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        require("epsilon", self.epsilon, 0 < self.epsilon < math.inf, "a number above 0")
        require("temperature", self.temperature, 0 < self.temperature < math.inf, "a number above 0")

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Terms:  # noqa: ARG002
        """See `Method`; also logs the shares of images that are right, and right by more than the margin of ε."""
        if self.teacher is not None:
            with torch.no_grad():
                labels = self.teacher(images).argmax(1)
        logits = network(images).float()
        offset = 2 * math.sqrt(2) * self.epsilon * functional.one_hot(labels, logits.shape[1])
        loss = self.temperature * functional.cross_entropy((logits - offset) / self.temperature, labels)
        best = logits.detach()
        right = best.gather(1, labels[:, None])[:, 0]
        others = best.scatter(1, labels[:, None], -math.inf).amax(1)
        certified = (right - others > math.sqrt(2) * self.epsilon).float().mean()
        return backward(loss, accuracy=batch_accuracy(logits, labels), certified=certified)
