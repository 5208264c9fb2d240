"""How far rounding can lead a network of convex potential layers away from what real arithmetic gives, for every image.

Nothing is assumed of an engine but that it adds and multiplies as IEEE 754 says, in whatever order, with or without
fused operations: a sum of m products is then off by at most γₘ·Σ|aᵢbᵢ|, γₘ = m·u / (1 − m·u), where u is 2⁻²⁴ for
float32 and 2⁻⁵³ for float64 (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1). Norms are L2 norms
of whole tensors, so that a layer that is 1-Lipschitz hands on the error of its input as it is, and adds its own.

Why it must be taken off a radius: Jin et al., "Getting a-Round Guarantees: Floating-Point Attacks on Certified
Robustness" (arXiv 2205.10159).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOAT32_UNIT = 2.0**-24
"""Unit roundoff of float32."""
FLOAT64_UNIT = 2.0**-53
"""Unit roundoff of float64."""
_ABOVE = 1 + 2.0**-20  # more than the float64 arithmetic of this very bound can lose


@dataclass(frozen=True)
class PotentialLayer:
    """What is known of y = x − τ·Wᵀ ReLU(Wx + b), in real arithmetic, where τ ≤ 2/‖W‖₂².

    Attributes:
        norm: at least ‖W‖₂.
        absolute_norm: at least the norm of W with the absolute values of its numbers.
        step: τ.
        terms: the most products and sums that one number of Wx + b, or of Wᵀh, is made of one after the other.
        bias: at least the norm of b, written out for every pixel.
    """

    norm: float
    absolute_norm: float
    step: float
    terms: int
    bias: float


def gamma(terms: int, unit: float) -> float:
    """γₘ."""
    return terms * unit / (1 - terms * unit)


def reach_of(mean: NDArray[np.float64], *, pixels: int) -> float:
    """A bound on ‖x − mean‖₂ over all images x in [0,1]: √d/2 where the mean is ½, and more where it is another.

    Args:
        mean: of each channel, [C].
        pixels: of one channel.
    """
    furthest = np.maximum(np.abs(mean), np.abs(1 - mean))
    return float(np.sqrt((furthest**2).sum() * pixels) * _ABOVE)


def logits_error(layers: Iterable[PotentialLayer], *, reach: float, unit: float) -> float:
    """A bound on ‖f̂(x) − f(x)‖₂ over all images: f̂ is what any engine computes, f the 1-Lipschitz function.

    Between the layers nothing is computed: maxima, minima, and choices of channels and pixels are exact.

    Args:
        layers: in their order; the first one's image is x − mean.
        reach: the largest ‖x − mean‖₂ of an image x in [0,1]ᵈ, see `reach_of`.
        unit: unit roundoff of the arithmetic: `FLOAT32_UNIT` or `FLOAT64_UNIT`.
    """
    error = unit * reach
    for layer in layers:  # `reach` is of ‖x‖, for the layer that comes
        into, lost = reach + error, gamma(layer.terms, unit)
        hidden = layer.norm * into + layer.bias
        hidden_error = lost * (layer.absolute_norm * into + layer.bias)
        back_error = lost * layer.absolute_norm * (hidden + hidden_error) + layer.norm * hidden_error
        moved = layer.step * (layer.norm * hidden + back_error)
        error += layer.step * back_error + unit * (moved + (1 + unit) * (into + moved))
        reach += layer.step * layer.norm * layer.bias  # what the layer makes of 0; the rest is 1-Lipschitz
    return float(error * _ABOVE)
