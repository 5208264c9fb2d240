"""How much certified accuracy each way of calibrating keeps, under the same promise, of what Certify proves.

Certify runs once, and so does the decision on one radius; every map is fitted and tested on their answers. The maps
that the product does not offer (a constant shift, steps of the top probability by itself) are built here for the
comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from heatserve.benchmarks.records.calibration import (
    CalibratedModel,
    CalibrationRecord,
    FittedSplit,
    PromisedRow,
    RefusedRow,
)
from heatserve.benchmarks.records.record import made_now
from heatserve.certification.audit import certified_accuracy
from heatserve.certification.calibration import (
    CalibrationError,
    Reference,
    calibrate,
    count_overclaims,
    fixed_sequence_test,
    servable,
)
from heatserve.certification.monte_carlo import largest_provable
from heatserve.certification.radius import PLAIN_WEIGHTS, RadiusMap, score_fractions
from heatserve.export.calibration.calibrate import FIT_SHARE, servable_radii
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.evaluate import CARD_RADII, compare_with_certify
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.images import SampledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import model_images
from heatserve.export.runtime.served import open_served

COMPARED_ALPHAS = (0.1, 0.05, 0.01)
"""α of the promises: the largest share of overclaims."""
COMPARED_TARGET = 0.25
"""The radius that the last ways are made for (L2, pixels in [0,1])."""


_PROMISES = ("conditional", "marginal")


@dataclass(frozen=True)
class CalibrationProblem:
    """What a way to calibrate is given."""

    fit: Reference
    """The answers that a map is fitted on, and what is proven there."""
    check: Reference
    """The answers that it is tested on."""
    sigma: float
    monte_carlo: MonteCarlo
    """What proves."""
    alpha: float
    """α: at most this share of answers may overclaim …"""
    delta: float
    """… with confidence 1 − δ."""
    marginal: bool
    """The share is of all answers; otherwise of those with a positive radius."""

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


def _constant_shift(problem: CalibrationProblem) -> RadiusMap:
    """σ·(Φ⁻¹(p₍₁₎) − t) up to the cap, in steps of σ/100."""
    cap = largest_provable(n=problem.monte_carlo.n, alpha=problem.monte_carlo.alpha)
    radii = np.arange(1, int(100 * cap) + 1) * problem.sigma / 100
    radii = np.nextafter(radii.astype(np.float32), np.float32(0)).astype(float)
    weights = tuple(map(tuple, PLAIN_WEIGHTS.tolist()))
    shifts = np.arange(4, -1, -0.01)
    maps = [
        RadiusMap(weights, tuple((shift + radii / problem.sigma).tolist()), tuple(radii.tolist())) for shift in shifts
    ]
    return fixed_sequence_test(
        maps, problem.fit, problem.check, alpha=problem.alpha, delta=problem.delta, marginal=problem.marginal
    ).radius_map


def _top_probability(problem: CalibrationProblem) -> RadiusMap:
    """The product's way, shown p₍₁₎ and nothing else."""
    return replace(problem, fit=_without_the_rest(problem.fit), check=_without_the_rest(problem.check)).calibrate()


def _without_the_rest(reference: Reference) -> Reference:
    """The same top probability, and a rest that follows from it."""
    top = reference.probabilities.max(1)
    return replace(reference, probabilities=np.stack([top, 0.5 * (1 - top), 0.5 * (1 - top)], axis=1))


@dataclass(frozen=True)
class CalibrationWay:
    """A way to calibrate."""

    radius_map: Callable[[CalibrationProblem], RadiusMap]
    looks_at: Callable[[Reference], Reference] = lambda reference: reference
    """What of the probabilities it uses."""
    decided: bool = False
    """It is calibrated on decisions about `COMPARED_TARGET`."""


CALIBRATION_WAYS: Mapping[str, CalibrationWay] = MappingProxyType(
    {
        "constant shift": CalibrationWay(_constant_shift),
        "steps of p₍₁₎": CalibrationWay(_top_probability, _without_the_rest),
        "steps of a score": CalibrationWay(lambda problem: problem.calibrate()),
        f"for r = {COMPARED_TARGET:g}": CalibrationWay(lambda problem: problem.calibrate(target=COMPARED_TARGET)),
        f"r = {COMPARED_TARGET:g} alone": CalibrationWay(lambda problem: problem.calibrate(), decided=True),
    }
)
"""The last three are `heatserve calibrate`, without and with `--radius`, and with `--alone`."""


def compare_calibrations(
    model: ModelVersion,
    calibration: SampledImages,
    test: SampledImages,
    *,
    delta: float,
    certifier: Certifier,
    decisions: SampledImages,
    decision_votes: int,
    test_monte_carlo: MonteCarlo,
) -> CalibrationRecord:
    """Certified accuracy on `test` at `CARD_RADII` of each promise, α and way to calibrate, and that of Certify.

    Args:
        model: calibrated or not; its served graph answers.
        calibration: images on which Certify runs.
        test: images that everything is measured on.
        delta: δ of each promise.
        certifier: how Certify runs on the calibration images.
        decisions: images on which the radius `COMPARED_TARGET` is decided.
        decision_votes: most votes of a decision.
        test_monte_carlo: Certify on the test images; its seed is that of all images and noise.
    """
    answer, monte_carlo = open_served(model), certifier.monte_carlo
    deciding = monte_carlo.model_copy(update={"n": decision_votes, "decides": float(servable(COMPARED_TARGET))})

    def problem(data: SampledImages, how: MonteCarlo) -> CalibrationProblem:
        reference = compare_with_certify(model, answer, model_images(model, data), certifier.running(how)).reference
        images = round(len(reference) * FIT_SHARE)
        return CalibrationProblem(
            reference[:images], reference[images:], model.card.sigma, how, 0, delta, marginal=False
        )

    certified, decided = problem(calibration, monte_carlo), problem(decisions, deciding)
    held_out = compare_with_certify(model, answer, model_images(model, test), certifier.running(test_monte_carlo))
    proven = certified_accuracy(held_out.proven_label == test.labels, held_out.proven_radius, CARD_RADII)
    right = held_out.outputs["label"] == test.labels
    return CalibrationRecord(
        **vars(made_now(seed=test_monte_carlo.seed)),
        model=CalibratedModel(name=model.name, graph_sha256=model.card.graph_sha256, sigma=model.card.sigma),
        calibration=_fitted(calibration, certified),
        monte_carlo=monte_carlo,
        decisions=_fitted(decisions, decided),
        decision_monte_carlo=deciding,
        test=test.source(len(held_out)),
        test_monte_carlo=test_monte_carlo,
        delta=delta,
        radii=tuple(CARD_RADII),
        certify=tuple(proven),
        agreement=float((held_out.smoothed_label == held_out.outputs["label"]).mean()),
        rows=tuple(_rows(certified, decided, held_out.reference, right)),
    )


def _fitted(data: SampledImages, problem: CalibrationProblem) -> FittedSplit:
    return FittedSplit(**data.source(len(data)).model_dump(), fit=len(problem.fit))


def _rows(
    certified: CalibrationProblem, decided: CalibrationProblem, test: Reference, right: NDArray[np.bool_]
) -> Iterator[PromisedRow | RefusedRow]:
    for promise, alpha, (name, way) in product(_PROMISES, COMPARED_ALPHAS, CALIBRATION_WAYS.items()):
        problem = decided if way.decided else certified
        try:
            found = way.radius_map(replace(problem, alpha=alpha, marginal=promise == "marginal"))
        except CalibrationError as error:
            yield RefusedRow(promise=promise, alpha=alpha, way=name, refused=str(error))
            continue
        radius = found.steps(score_fractions(way.looks_at(test).probabilities))
        seen = count_overclaims(test, radius, delta=problem.delta)
        accuracy, backed = (
            certified_accuracy(counted, radius.astype(np.float64), CARD_RADII)
            for counted in (right, right & ~test.overclaims(radius))
        )
        yield PromisedRow(
            promise=promise,
            alpha=alpha,
            way=name,
            single_pass=tuple(accuracy),
            backed=tuple(backed),
            overclaims=seen.count,
            positive=seen.positive,
        )
