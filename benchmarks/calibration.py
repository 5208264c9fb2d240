"""How much certified accuracy each way of calibrating keeps, under the same promise, of what Certify proves.

Certify runs once, and so does the decision on one radius; every map is fitted and tested on their answers. The maps
that the product does not offer (a constant shift, the top probability alone) are built here for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.audit import certified_accuracy
from heatserve.certification.calibration import (
    CalibrationError,
    Reference,
    calibrate,
    count_overclaims,
    first_to_last,
    servable,
)
from heatserve.certification.monte_carlo import largest_provable
from heatserve.certification.radius import PLAIN_WEIGHTS, RadiusMap, score_fractions
from heatserve.export.calibration.calibrate import FIT_SHARE, servable_radii
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.evaluate import CARD_RADII, compare_with_certify
from heatserve.export.card import MonteCarlo
from heatserve.export.images import SampledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import model_images
from heatserve.export.runtime.served import open_served

ALPHAS = (0.1, 0.05, 0.01)
TARGET = 0.25
"""The radius that the last ways are made for (L2, pixels in [0,1])."""


@dataclass(frozen=True)
class Problem:
    """What a way to calibrate is given."""

    fit: Reference
    check: Reference
    sigma: float
    monte_carlo: MonteCarlo
    alpha: float
    delta: float
    marginal: bool

    def calibrate(self, *, target: float | None = None) -> RadiusMap:
        """The product's own way."""
        return calibrate(
            self.fit,
            self.check,
            radii=servable_radii(self.sigma, self.monte_carlo, target),
            alpha=self.alpha,
            delta=self.delta,
            target=target,
            marginal=self.marginal,
        ).radius_map


def _constant_shift(problem: Problem) -> RadiusMap:
    """σ·(Φ⁻¹(p₍₁₎) − t) up to the cap, in steps of σ/100."""
    cap = largest_provable(n=problem.monte_carlo.n, alpha=problem.monte_carlo.alpha)
    radii = np.arange(1, int(100 * cap) + 1) * problem.sigma / 100
    radii = np.nextafter(radii.astype(np.float32), np.float32(0)).astype(float)
    weights = tuple(map(tuple, PLAIN_WEIGHTS.tolist()))
    shifts = np.arange(4, -1, -0.01)
    maps = [
        RadiusMap(weights, tuple((shift + radii / problem.sigma).tolist()), tuple(radii.tolist())) for shift in shifts
    ]
    return first_to_last(
        maps, problem.fit, problem.check, alpha=problem.alpha, delta=problem.delta, marginal=problem.marginal
    ).radius_map


def _top_alone(problem: Problem) -> RadiusMap:
    """The product's way, blind to all but p₍₁₎."""
    return replace(problem, fit=_blind(problem.fit), check=_blind(problem.check)).calibrate()


def _blind(reference: Reference) -> Reference:
    """The same top probability, and a rest that follows from it."""
    top = reference.probabilities.max(1)
    return replace(reference, probabilities=np.stack([top, 0.5 * (1 - top), 0.5 * (1 - top)], axis=1))


@dataclass(frozen=True)
class Way:
    """A way to calibrate, and what it looks at."""

    radius_map: Callable[[Problem], RadiusMap]
    looks_at: Callable[[Reference], Reference] = lambda reference: reference
    decided: bool = False
    """It is calibrated on decisions about `TARGET`."""


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "constant shift": Way(_constant_shift),
        "steps of p₍₁₎": Way(_top_alone, _blind),
        "steps of a score": Way(lambda problem: problem.calibrate()),
        f"for r = {TARGET:g}": Way(lambda problem: problem.calibrate(target=TARGET)),
        f"r = {TARGET:g} alone": Way(lambda problem: problem.calibrate(), decided=True),
    }
)
"""The last three are `heatserve calibrate`, without and with `--radius`, and with `--alone`."""


def compare(
    model: ModelVersion,
    calibration: SampledImages,
    test: SampledImages,
    *,
    delta: float,
    certifier: Certifier,
    decisions: SampledImages,
    decision_votes: int,
    test_monte_carlo: MonteCarlo,
) -> dict[str, Any]:
    """Rows: a promise, α and a way, its certified accuracy on `test` at `CARD_RADII`, and what Certify has there.

    `single_pass` counts an overclaim whose class is right, as certified accuracy does; `backed` counts none.
    """
    answer, monte_carlo = open_served(model), certifier.monte_carlo
    deciding = monte_carlo.model_copy(update={"n": decision_votes, "decides": float(servable(TARGET))})

    def problem(data: SampledImages, how: MonteCarlo) -> Problem:
        reference = compare_with_certify(model, answer, model_images(model, data), certifier.running(how)).reference
        images = round(len(reference) * FIT_SHARE)
        return Problem(reference[:images], reference[images:], model.card.sigma, how, 0, delta, marginal=False)

    certified, decided = problem(calibration, monte_carlo), problem(decisions, deciding)
    held_out = compare_with_certify(model, answer, model_images(model, test), certifier.running(test_monte_carlo))
    proven = certified_accuracy(held_out.proven_label == test.labels, held_out.proven_radius, CARD_RADII)
    right = held_out.outputs["label"] == test.labels
    return {
        "model": {"name": model.name, "graph_sha256": model.card.graph_sha256, "sigma": model.card.sigma},
        "calibration": {**calibration.source(len(calibration)).model_dump(), "fit": len(certified.fit)},
        "monte_carlo": monte_carlo.model_dump(),
        "decisions": {**decisions.source(len(decisions)).model_dump(), "fit": len(decided.fit)},
        "decision_monte_carlo": deciding.model_dump(),
        "test": test.source(len(held_out)).model_dump(),
        "test_monte_carlo": test_monte_carlo.model_dump(),
        "delta": delta,
        "radii": CARD_RADII,
        "certify": proven,
        "agreement": float((held_out.smoothed_label == held_out.outputs["label"]).mean()),
        "rows": list(_rows(certified, decided, held_out.reference, right)),
    }


def _rows(certified: Problem, decided: Problem, test: Reference, right: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    for marginal in (False, True):
        for alpha in ALPHAS:
            for name, way in WAYS.items():
                row = {"promise": "marginal" if marginal else "conditional", "alpha": alpha, "way": name}
                problem = decided if way.decided else certified
                try:
                    found = way.radius_map(replace(problem, alpha=alpha, marginal=marginal))
                except CalibrationError as error:
                    yield {**row, "refused": str(error)}
                    continue
                radius = found.steps(score_fractions(way.looks_at(test).probabilities))
                seen = count_overclaims(test, radius, delta=problem.delta)
                accuracy, backed = (
                    certified_accuracy(counted, radius.astype(np.float64), CARD_RADII)
                    for counted in (right, right & ~test.overclaims(radius))
                )
                yield {
                    **row,
                    "single_pass": accuracy,
                    "backed": backed,
                    "overclaims": seen.count,
                    "positive": seen.positive,
                }
