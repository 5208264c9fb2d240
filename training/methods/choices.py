"""What each named choice of a method stands for. Importing it needs no torch, as with `parameters`, which checks them.

The names are those of the parameters and of the command line; the losses call what stands under them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def _votes(logits: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)


def _cross_entropy(logits: Tensor, mean: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.cross_entropy(logits, mean)


HEAT_OUTPUTS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"logits": lambda logits: logits, "probabilities": lambda logits: logits.softmax(1)}
)
"""What the heat loss compares (`distance`) and differentiates (`penalty`): functions of the logits [N, K]."""

ESTIMATORS = ("projections", "displacements")
"""How the heat loss estimates ‖∇v‖²: see `HeatParameters`."""

NORMALISATIONS: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {"unbiased": lambda kappa, classes: classes / kappa, "paper": lambda _kappa, _classes: 1.0}
)
"""Factor on the sum over κ draws in (16), from κ and K."""

TARGETS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"probabilities": lambda logits: logits.softmax(-1), "votes": _votes}
)
"""What of f's noisy logits [m, N, K] is averaged: E softmax(f), as Theorem 3, or P(argmax f = k), as Certify."""

DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "cross-entropy": _cross_entropy,
        "squared": lambda logits, mean: 0.5 * (logits.softmax(1) - mean).square().sum(1).mean(),
    }
)
"""From v's logits [N, K] and the average of f's answers [N, K] to the loss of regression on that average."""
