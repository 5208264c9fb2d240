"""How far FP32 can lead a network of convex potential layers away from what real arithmetic gives, for every image.

Nothing is assumed of an engine but that it adds and multiplies in IEEE 754 float32, in whatever order, with or without
fused operations: a sum of m products is then off by at most γₘ·Σ|aᵢbᵢ|, γₘ = m·u / (1 − m·u), u = 2⁻²⁴ (Higham,
"Accuracy and Stability of Numerical Algorithms", section 3.1). Norms are L2 norms of whole tensors, so that a layer
that is 1-Lipschitz hands on the error of its input as it is, and adds its own.

Why it must be taken off a radius: Jin et al., "Getting a-Round Guarantees: Floating-Point Attacks on Certified
Robustness" (arXiv 2205.10159).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

UNIT = 2.0**-24  # unit roundoff of float32
_ABOVE = 1 + 2.0**-20  # more than the float64 arithmetic of this very bound can lose


@dataclass(frozen=True)
class PotentialLayer:
    """What is known of y = x − τ·Wᵀ ReLU(Wx + b), in real arithmetic, with the float32 numbers W, b and τ ≤ 2/‖W‖₂².

    Attributes:
        norm: at least ‖W‖₂.
        absolute_norm: at least the norm of W with the absolute values of its numbers.
        step: τ.
        terms: the most products and sums that one number of Wx + b, or of Wᵀh, is made of one after the other.
        at_centre: at least ‖x‖ where the image is the centre of [0,1]ᵈ.
        hidden_at_centre: at least ‖ReLU(Wx + b)‖ there.
        bias: at least the norm of b, written out for every pixel.
    """

    norm: float
    absolute_norm: float
    step: float
    terms: int
    at_centre: float
    hidden_at_centre: float
    bias: float


def gamma(terms: int) -> float:
    """γₘ of float32."""
    return terms * UNIT / (1 - terms * UNIT)


def logits_error(layers: Iterable[PotentialLayer], *, pixels: int) -> float:
    """A bound on ‖f̂(x) − f(x)‖₂ over all images: f̂ is what any engine computes in FP32, f the 1-Lipschitz function.

    Between the layers nothing is computed: maxima, minima, and choices of channels and pixels are exact.

    Args:
        layers: in their order; the first one's image is x − ½.
        pixels: d, all numbers of an image in [0,1]ᵈ, none of which is further than √d/2 from the centre.
    """
    reach = 0.5 * pixels**0.5
    error = UNIT * reach  # of x − ½
    for layer in layers:
        into = layer.at_centre + reach + error
        hidden = layer.hidden_at_centre + layer.norm * (reach + error)
        hidden_error = gamma(layer.terms) * (layer.absolute_norm * into + layer.bias)
        back_error = gamma(layer.terms) * layer.absolute_norm * (hidden + hidden_error) + layer.norm * hidden_error
        moved = layer.step * (layer.norm * hidden + back_error)
        error += layer.step * back_error + UNIT * (moved + (1 + UNIT) * (into + moved))
    return float(error * _ABOVE)
