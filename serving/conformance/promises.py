"""What an engine promises, checked on its answers with float64 numpy.

Radii of a statistical certificate are compared with the float64 values of `certification/radius.py` for the engine's
*own* probabilities, those of a deterministic one with the float64 logits (`conformance.proven`): they are never above
those, and below them by no more than docs/served-graph.md states. Everything else is compared with float64 softmax of
the logits that the probe's network answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, softmax

from heatserve.certification.errors import HeatserveError
from heatserve.certification.quantile import POLES
from heatserve.certification.radius import Float64Array, RadiusMap, certified_l_bound, nominal_radius
from heatserve.export.contract import INVALID_LABEL, OUTPUT_TENSORS, RADIUS_NAMES, Outputs, Reason
from heatserve.export.graph.certificate import FLOAT32_MARGINS
from heatserve.export.graph.guard import guard_margin
from heatserve.serving.conformance.probe import Probe, pixels_of
from heatserve.serving.conformance.proven import check_proven

_TIE = 1e-6  # relative difference of two probabilities that float32 may order either way
_REPEATED = 1e-6  # what a probability may change by with the rest of its batch


class ContractError(HeatserveError):
    """An engine has other outputs than the contract of a served model, or other types or shapes."""


@dataclass(frozen=True)
class PromiseCheck:
    """Which of the answers `outputs` to N images kept one promise."""

    promise: str
    kept: NDArray[np.bool_]
    """[N]."""
    outputs: Outputs


@dataclass(frozen=True)
class Deviation:
    """How far answers to valid images are from float64, within what is promised or not."""

    probability: float
    """Largest difference of a probability."""
    nominal: float
    """Largest difference, in σ, by which a nominal radius is below its float64 value."""
    positive: int
    """Answers whose certified radius, a statistical one, is positive in float64."""
    lower: int
    """Answers whose certified radius is lower than in float64."""


def check_contract(one: Probe, count: int, outputs: Outputs) -> None:
    """Do nothing where `outputs` are those of the contract for `count` images.

    Raises:
        ContractError: another output, type or shape; names all of them.
    """
    promised = {tensor.name: (tensor.dtype.name, (count, *tensor.shape(one.classes))) for tensor in OUTPUT_TENSORS}
    found = {name: (value.dtype.name, value.shape) for name, value in outputs.items()}
    if found != promised:
        raise ContractError(f"outputs: expected {promised}, got {found}")


def check_promises(
    one: Probe, images: NDArray[Any], logits: NDArray[np.floating[Any]], outputs: Outputs
) -> Iterator[PromiseCheck]:
    """Every promise about the answers to one batch.

    Args:
        one: the graph.
        images: as the graph takes them.
        logits: [N, K], what its network answers; NaN for an image that is invalid.
        outputs: what the engine answered.
    """
    expected = _probabilities(one, logits)
    valid = np.isfinite(expected).all(1)
    refused, answered = rows_of(outputs, ~valid), rows_of(outputs, valid)
    yield PromiseCheck("invalid input", _fails_closed(refused), refused)
    kept = (*_of_classes(one, expected[valid], answered), *_of_kind(one, images[valid], logits[valid], answered))
    for promise, holds in kept:
        yield PromiseCheck(promise, holds, answered)


def _of_kind(
    one: Probe, images: NDArray[Any], logits: NDArray[np.floating[Any]], answered: Outputs
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """What each kind of certificate promises of its radii and reasons."""
    if one.bound:
        yield from check_proven(one, logits.astype(np.float64), answered)
        return
    yield from _of_radii(one, answered)
    yield from _of_reasons(one, pixels_of(images), answered)


def check_same(promise: str, some: Outputs, others: Outputs) -> PromiseCheck:
    """Whether images were answered alike two times; that radii suit their probabilities is checked elsewhere."""
    apart = np.abs(some["probabilities"] - others["probabilities"])
    return PromiseCheck(promise, np.asarray(apart.max(1, initial=0.0) <= _REPEATED), some)


def deviation(one: Probe, logits: NDArray[np.floating[Any]], outputs: Outputs) -> Deviation:
    """How far the answers to the valid images of one batch are from float64; arguments as for `check_promises`."""
    expected = _probabilities(one, logits)
    valid = np.isfinite(expected).all(1)
    answered = rows_of(outputs, valid)
    p = answered["probabilities"].astype(np.float64)
    if one.bound:  # which is not in units of σ
        return Deviation(_largest(np.abs(p - expected[valid])), 0.0, 0, 0)
    nominal, certified = nominal_radius(p, sigma=one.sigma), one.radius_map(p)
    return Deviation(
        probability=_largest(np.abs(p - expected[valid])),
        nominal=_largest(nominal - answered["nominal_radius"]) / one.sigma,
        positive=int((certified > 0).sum()),
        lower=int(((answered["certified_radius"] < certified) & (answered["reason"] != Reason.UNLIKE)).sum()),
    )


def rows_of(outputs: Outputs, rows: Any) -> Outputs:
    """The answers to some of the images, which `rows` selects as numpy does."""
    return {name: value[rows] for name, value in outputs.items()}


def _probabilities(one: Probe, logits: NDArray[np.floating[Any]]) -> Float64Array:
    """Float64 softmax(logits / T); NaN in each row that has NaN or +∞, or −∞ only."""
    temperature = one.bound.temperature if one.bound else 1.0
    with np.errstate(invalid="ignore"):
        return np.asarray(softmax(logits.astype(np.float64) / temperature, axis=1))


def _fails_closed(out: Outputs) -> NDArray[np.bool_]:
    nothing = [out[name] == 0 for name in RADIUS_NAMES]
    says = [out["label"] == INVALID_LABEL, out["reason"] == Reason.INVALID]
    kept = [*says, *nothing, np.isfinite(out["probabilities"]).all(1)]
    return np.asarray(np.all(kept, axis=0))


def _of_classes(one: Probe, expected: Float64Array, out: Outputs) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Probabilities, label and top_k of valid images, compared with float64 softmax."""
    p, label, top_k = out["probabilities"], out["label"], out["top_k"]
    yield "probabilities", (np.abs(p - expected) <= one.encoding.tolerance).all(1)
    known = ((top_k >= 0) & (top_k < one.classes)).all(1)
    top_k = np.where(known[:, None], top_k, 0)
    chosen = np.take_along_axis(expected, top_k[:, :1], axis=1)[:, 0]
    yield "label", known & (label == top_k[:, 0]) & (chosen >= expected.max(1) * (1 - _TIE))
    distinct = (np.diff(np.sort(top_k, axis=1), axis=1) > 0).all(1)
    ranked, descending = np.take_along_axis(p, top_k, axis=1), -np.sort(-p, axis=1)
    yield "top_k", known & distinct & (ranked == descending[:, : top_k.shape[1]]).all(1)


def _of_radii(one: Probe, out: Outputs) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The radii of valid images, compared with float64 on the engine's own probabilities."""
    p = out["probabilities"].astype(np.float64)
    certified, nominal, bound = out["certified_radius"], out["nominal_radius"], out["l_bound"]
    table = np.append(np.array(one.radius_map.radii, np.float32), np.float32(0))
    yield "certified_radius", (certified <= one.radius_map(p)) & np.isin(certified, table)
    refused = out["reason"] == Reason.UNLIKE  # whether rightly so, `_of_reasons` asks
    yield "certified_radius of use", refused | (certified >= _certified_at_least(one, p))
    exact = nominal_radius(p, sigma=one.sigma)
    yield "nominal_radius", (nominal >= 0) & (nominal <= exact)
    yield "nominal_radius of use", nominal >= exact - 1e-5 * exact - (1e-5 + 1e-7 * one.classes) * one.sigma
    largest = certified_l_bound(p, sigma=one.sigma, radius_map=one.radius_map)
    yield "l_bound", (bound >= 0) & (bound <= largest) & (bound <= certified)
    own = one.sigma * np.sqrt(np.pi / 2) * erf(certified / (one.sigma * np.sqrt(2)))
    yield "l_bound of use", bound >= own * (1 - 2e-5)


def _of_reasons(one: Probe, pixels: NDArray[np.float32], out: Outputs) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Refused images and reasons for valid images, compared with the guard in float64 and with the engine's radii."""
    reason, positive = out["reason"], out["certified_radius"] > 0
    unlike = reason == Reason.UNLIKE
    nothing = Reason.UNSURE if one.radius_map.radii else Reason.NOT_CALIBRATED
    yield "reason", np.where(positive, reason == Reason.CALIBRATED, unlike | (reason == nothing))
    if one.guard is None:
        yield "guard of use", ~unlike
        return
    distance = one.guard.distance(pixels)
    lost = 2 * guard_margin(one.guard, roundoff=FLOAT32_MARGINS.roundoff) + 1e-5 * one.guard.threshold
    yield "guard", unlike | (distance <= one.guard.threshold)
    yield "guard of use", ~unlike | (distance > one.guard.threshold - lost)


def _certified_at_least(one: Probe, p: Float64Array) -> NDArray[np.float32]:
    """What is not uselessly low: the answer of thresholds that are higher by what a score may lose in float32."""
    weights = np.abs(one.radius_map.weights)
    lost = 1e-5 * (1 + weights.sum()) + 1e-6 * one.classes * (weights[0] / POLES).sum()
    thresholds = tuple(threshold + lost for threshold in one.radius_map.thresholds)
    higher = RadiusMap(one.radius_map.weights, thresholds, one.radius_map.radii)
    return np.where(p.max(1) > 0.5 + 1e-6 * one.classes, higher(p), np.float32(0))


def _largest(values: NDArray[Any]) -> float:
    return float(values.max(initial=0.0))
