"""The proof of a deterministic certificate, made again of what was read from its graph, and compared with its card.

For every layer: V = Wᵀ number by number; 2/step·I − WᵀW is positive semidefinite, proven by a Cholesky factorisation of
the matrix that the patches say; and an estimate of ‖W‖ from below by another method, Lanczos iteration on x ↦ V(Wx),
which a wrong proof would have to agree with. Then what rounding can do to the logits, and what must be taken off a
radius for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from heatserve.certification.operator_norm import norm_is_at_most
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.rounding import FLOAT64_UNIT, PotentialLayer, logits_error
from heatserve.export.audit.proven.pieces import Centred, Potential, UnprovenError
from heatserve.export.audit.proven.reading import ReadGraph
from heatserve.export.card_parts import LipschitzBound

_CLOSE = 1e-6
"""Relative: what the card's numbers may differ by from those that are computed here in another order."""
_TIE = 2.0**-22
"""Two logits that are further apart have probabilities whose quotient float32 shows: half a unit in the last place of
each is 2⁻²⁴ of it at most."""


@dataclass(frozen=True)
class ProvenLayer:
    """One layer x − step·Wᵀ ReLU(Wx + b), and what was found of its norm."""

    shape: tuple[int, ...]
    """Of x: H, W, C."""
    step: float
    norm_at_most: float
    """√(2/step): ‖W‖₂ is proven to be at most this, and the layer is 1-Lipschitz."""
    norm_at_least: float
    """An estimate of ‖W‖₂ from below."""
    rounding: PotentialLayer
    """What the bound on rounding needs."""


@dataclass(frozen=True)
class BoundAgain:
    """What was proven of a graph."""

    layers: tuple[ProvenLayer, ...]
    mean: tuple[float, ...]
    """Distinct numbers that are taken off pixels."""
    reach: float
    """‖x − mean‖₂ at most."""
    logits_error: float
    """How far (L2) the logits may be from those in real arithmetic."""
    slack_needed: float
    """What must be taken off each radius."""
    slack: float
    """What is."""


def prove_again(graph: ReadGraph, *, progress: Progress = unseen) -> BoundAgain:
    """Prove that the logits are a 1-Lipschitz function of the pixels, and that enough is taken off each radius.

    Args:
        graph: as `read_graph` read it.
        progress: is told of the layers, which take seconds each.

    Raises:
        UnprovenError: it could not be proven; says of which layer, or how much too little is taken off.
    """
    potentials = graph.network.potentials
    numbered = progress([*enumerate(potentials, start=1)], len(potentials), "layers proven again")
    layers = tuple(_proven(layer, number) for number, layer in numbered)
    reach = _reach(graph.network.centred)
    error = logits_error([layer.rounding for layer in layers], reach=reach, unit=FLOAT64_UNIT)
    divided = 2.0**-24 * math.sqrt(graph.pixels) if graph.takes_bytes else 0.0
    needed = 2 * error + _TIE / math.sqrt(2) + divided
    if not graph.slack >= needed:
        raise UnprovenError(f"slack: expected at least {needed:.3g} to be taken off each radius, got {graph.slack:.3g}")
    means = tuple(np.unique(graph.network.centred.mean).tolist())
    return BoundAgain(layers, means, reach, error, needed, graph.slack)


def other_than_card(again: BoundAgain, card: LipschitzBound) -> list[str]:
    """What a card says otherwise, a sentence each."""
    found = []
    if len(card.layers) != len(again.layers):
        found.append(f"The card has {len(card.layers)} layers, the graph {len(again.layers)}.")
    for number, (stated, layer) in enumerate(zip(card.layers, again.layers, strict=False), start=1):
        if stated.step != layer.step:
            found.append(f"Layer {number}: the card has the step {stated.step:.17g}, the graph {layer.step:.17g}.")
        if stated.norm < layer.norm_at_least * (1 - _CLOSE):
            found.append(
                f"Layer {number}: the card has a norm of at most {stated.norm:.9g}, and it is at least "
                f"{layer.norm_at_least:.9g}."
            )
    if card.slack != again.slack:
        found.append(f"The card has the slack {card.slack:.17g}, the graph {again.slack:.17g}.")
    if card.logits_error < again.logits_error * (1 - _CLOSE):
        found.append(
            f"The card has logits that rounding moves by at most {card.logits_error:.3g}, and a bound is "
            f"{again.logits_error:.3g}."
        )
    return found


def _reach(centred: Centred) -> float:
    furthest = np.maximum(np.abs(centred.mean), np.abs(1 - centred.mean))
    return float(np.linalg.norm(furthest) * (1 + 2.0**-20))


def _proven(layer: Potential, number: int) -> ProvenLayer:
    forward, back = layer.forward.matrix(), layer.back.matrix()
    where = f"layer {number}"
    if forward.shape != back.shape[::-1] or abs(forward.T - back).sum() != 0:
        raise UnprovenError(f"{where}: expected the second matrix to be the first one transposed, got another")
    sizes = abs(forward)
    absolute = math.sqrt(float(sizes.sum(0).max()) * float(sizes.sum(1).max())) * (1 + 2.0**-20)
    at_most = math.sqrt(2 / layer.step) * (1 - 2.0**-50) if layer.step else absolute
    at_least = _norm_from_below(forward, back)
    if layer.step * at_least**2 > 2 * (1 + 2.0**-40):
        raise UnprovenError(f"{where}: expected a norm of at most {at_most:.9g} for its step, got {at_least:.9g}")
    if layer.step and not norm_is_at_most(forward, at_most):
        raise UnprovenError(f"{where}: a norm of at most {at_most:.9g}, which its step needs, could not be proven")
    rounding = PotentialLayer(
        norm=at_most * (1 + 2.0**-40),
        absolute_norm=absolute,
        step=layer.step,
        terms=1 + max(len(layer.forward.values), len(layer.back.values)),
        bias=float(np.linalg.norm(layer.bias) * (1 + 2.0**-20)),
    )
    return ProvenLayer(layer.shape, layer.step, at_most, at_least, rounding)


def _norm_from_below(forward: Any, back: Any) -> float:
    """‖W‖₂ by Lanczos iteration on x ↦ V(Wx), from one vector at random: below the norm, and mostly just below."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    numbers = forward.shape[1]
    if not forward.nnz:
        return 0.0
    if numbers < 3:
        return float(np.linalg.norm(forward.toarray(), 2))
    product = LinearOperator((numbers, numbers), matvec=lambda x: back @ (forward @ x), dtype=np.float64)
    start = np.random.default_rng(numbers).standard_normal(numbers)
    vector = eigsh(product, 1, which="LA", v0=start, tol=1e-8)[1][:, 0]
    return float(np.linalg.norm(forward @ vector) / np.linalg.norm(vector))
