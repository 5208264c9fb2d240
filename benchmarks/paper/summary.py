"""Shares of images over a radius or a distance, with exact bands, from the arrays of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heatserve.benchmarks.records.paper import AttackRow, SystemRow
from heatserve.certification.binomial import lower_bound, upper_bound
from heatserve.certification.radius import Float64Array

BAND_CONFIDENCE = 0.95
"""Of each band at each radius, for itself."""


@dataclass(frozen=True)
class ShareCurve:
    """A share of `total` images at each of `at`, with two-sided Clopper-Pearson bounds. All arrays are [n]."""

    at: Float64Array
    share: Float64Array
    lower: Float64Array
    upper: Float64Array
    total: int


def curve_of(counts: ArrayLike, total: int, at: ArrayLike) -> ShareCurve:
    """The shares that are `counts` [n] of `total`."""
    found, half = np.asarray(counts), (1 - BAND_CONFIDENCE) / 2
    return ShareCurve(
        at=np.asarray(at, np.float64),
        share=found / total,
        lower=lower_bound(found, total, alpha=half),
        upper=upper_bound(found, total, alpha=half),
        total=total,
    )


def certified_curve(radius: Sequence[float], right: Sequence[bool], at: Float64Array) -> ShareCurve:
    """Share of images that are right and have a positive radius of at least each of `at` [n]."""
    radii, are_right = np.asarray(radius), np.asarray(right)
    certified = np.sort(radii[are_right & (radii > 0)])
    return curve_of(len(certified) - np.searchsorted(certified, at), len(radii), at)


def paper_curve(row: SystemRow, at: Float64Array) -> ShareCurve | None:
    """The curve of Figure 1: Certify of a stochastic model; of a deterministic one with the class of v for c_A.

    None: a 1-Lipschitz network, whose curve is `served_curve`.
    """
    if row.noisy is None:
        return None
    if row.evaluated == "stochastic":
        return certified_curve(row.noisy.top_k_radius, row.noisy.top_k_right, at)
    return certified_curve(row.noisy.named_radius, row.one_pass.right[: row.proven_images], at)


def served_curve(row: SystemRow, at: Float64Array) -> ShareCurve:
    """Certified accuracy of one pass over all images; an overclaim whose class is right counts as certified."""
    return certified_curve(row.one_pass.served, is_right(row), at)


def certify_curve(row: SystemRow, at: Float64Array) -> ShareCurve | None:
    """Certified accuracy of Certify, about the class; None: a 1-Lipschitz network."""
    if row.noisy is None:
        return None
    truth = np.array(row.one_pass.truth[: row.proven_images])
    right = (np.array(row.noisy.proven_label) == truth).tolist()
    return certified_curve(row.noisy.proven_radius, right, at)


def attacked_curve(row: AttackRow, at: Float64Array) -> ShareCurve:
    """Share of images that are misclassified within each distance, those that are so as they are among them."""
    return curve_of(np.searchsorted(np.sort(row.finite), at, side="right"), len(row.distances), at)


def is_right(row: SystemRow) -> list[bool]:
    """Whether the top class of one pass is the true one, of each image."""
    found: list[bool] = (np.array(row.one_pass.label) == np.array(row.one_pass.truth)).tolist()
    return found


def paper_l_bound(row: SystemRow) -> NDArray[np.float64]:
    """L-bounds as the paper reports them: of v's probabilities, or of a stochastic model's averaged ones."""
    if row.evaluated == "stochastic" and row.noisy is not None:
        return np.array(row.noisy.average_l_bound)
    return np.array(row.one_pass.l_bound)


def right_answers(row: SystemRow) -> tuple[bool, ...]:
    """Which images are answered rightly, as the paper answers with the system: by one pass, or by the average over
    noise, which is about the first of them."""
    if row.evaluated == "stochastic" and row.noisy is not None:
        return row.noisy.average_right
    return row.one_pass.right


def accuracy_of(row: SystemRow) -> float:
    """Share of right answers, as `right_answers`."""
    return float(np.mean(right_answers(row)))
