"""Calibration of what is served, graph or plan: its answers are compared with Certify of its base, on held-out images.

Needs no torch: images come as arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from heatserve.certification.calibration import (
    METHOD,
    CalibrationError,
    calibrate,
    count_overclaims,
    radius_grid,
    require_images,
)
from heatserve.certification.errors import HeatserveError
from heatserve.certification.guard import Guard, fit_guard
from heatserve.certification.monte_carlo import largest_provable
from heatserve.certification.radius import RadiusMap
from heatserve.certification.sequential import provable
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.evaluate import (
    ComparedAnswers,
    compare_with_certify,
    evaluate,
    overclaim_rate,
)
from heatserve.export.card import BASE_NAME, GRAPH_NAME, Calibration, Card, Evaluation, MonteCarlo, OverclaimRate
from heatserve.export.graph.build import with_map
from heatserve.export.images import SampledImages
from heatserve.export.repository.layout import CONFIG_NAME, TIMING_CACHE_NAME, ModelVersion, publish
from heatserve.export.repository.settings import read_config
from heatserve.export.runtime.answers import ModelImages, answers, check_images, model_images
from heatserve.export.runtime.served import open_bytes, open_served
from heatserve.export.runtime.session import Runner
from heatserve.export.runtime.tensorrt import build_plan, plan_part

FIT_SHARE = 1 / 3
"""Share of the calibration images that a sequence of maps is fitted on; the rest test it."""


def calibrate_model(
    model: ModelVersion,
    calibration: SampledImages,
    test: SampledImages,
    *,
    alpha: float,
    delta: float,
    certifier: Certifier,
    test_monte_carlo: MonteCarlo | None = None,
    target: float | None = None,
    accept: Callable[[Evaluation], object] = lambda _: None,
) -> ModelVersion:
    """Publish the next version of `model`, whose certified radii carry the promise on its card.

    Args:
        model: exported, calibrated before or not.
        calibration: images that training never saw; the guard and the maps are fitted on the first third, and the maps
            tested on the rest. The first of them is written beside the model, for Triton to warm up with.
        test: images that neither training nor calibration saw; everything the card reports is measured on them.
        alpha: α, bound on the overclaim rate given a positive radius.
        delta: δ; the bound holds with confidence 1 − δ over the draw of the calibration images.
        certifier: the Certify that all is compared with, or the decision on one radius, the only one served then.
        test_monte_carlo: how Certify is run on the test images; None: as on the others.
        target: the radius that matters most (L2, pixels in [0,1]); None: the larger, the better, or the one decided.
        accept: raises where what was measured on the test images is not good enough to publish.

    Raises:
        CalibrationError: too few images, or no map can be promised.
        HeatserveError: images of another shape than the model's, a target that Certify cannot prove, a `config.pbtxt`
            that is none, or what runs the model is not here (see `heatserve.export.runtime.served`).
    """
    read_config(model.path.parent / CONFIG_NAME)  # its settings are to be kept: better to fail before the work
    check_images(model, test)
    images = model_images(model, calibration)
    wanted = _Wanted(alpha, delta, target, round(len(images) * FIT_SHARE))
    radii = servable_radii(model.card.sigma, certifier.monte_carlo, target)
    require_images(len(images) - wanted.fit_images, alpha=alpha, delta=delta)  # before Certify takes its time
    compared = compare_with_certify(model, open_served(model), images, certifier)
    guard = fit_guard(images.images[: wanted.fit_images])
    candidate = _with_map(model, _fit(compared, guard.refuses(images.images), radii, wanted), guard)
    checked = _check(candidate, images, compared, wanted)
    evaluated = evaluate(
        model,
        candidate.runner,
        model_images(model, test),
        delta=delta,
        certifier=certifier.running(test_monte_carlo or certifier.monte_carlo),
    )
    accept(evaluated)
    part = _calibration(candidate, images, wanted, certifier.monte_carlo, checked)
    return _publish(model, candidate, candidate.card.calibrated(part, evaluated), images)


def servable_radii(sigma: float, monte_carlo: MonteCarlo, target: float | None) -> tuple[float, ...]:
    """The radii that a calibration may serve: all that the reference can prove in steps of σ/10, or the one it decides.

    Raises:
        HeatserveError: what is asked for cannot be proven.
    """
    if monte_carlo.decides is not None:
        if not provable(monte_carlo.decides, sigma=sigma, n=monte_carlo.n, alpha=monte_carlo.alpha):
            raise HeatserveError(
                f"radius: expected one that n = {monte_carlo.n} votes can prove at σ = {sigma:g}, got "
                f"{monte_carlo.decides:g}, which takes more even if they all agree"
            )
        return (monte_carlo.decides,)
    cap = sigma * largest_provable(n=monte_carlo.n, alpha=monte_carlo.alpha)
    if target is not None and not 0 < target <= cap:
        raise HeatserveError(
            f"radius: expected one above 0 that Certify can prove, with n = {monte_carlo.n} and σ = "
            f"{sigma:g} at most {cap:.4g}, got {target:g}"
        )
    return radius_grid(sigma=sigma, cap=cap, target=target)


@dataclass(frozen=True)
class _Wanted:
    """The promise that is asked for, and how many of the images a map may be fitted on."""

    alpha: float
    delta: float
    target: float | None
    fit_images: int


@dataclass(frozen=True)
class _Candidate:
    """What the next version serves, its card so far, and its answers."""

    card: Card
    radius_map: RadiusMap
    guard: Guard
    graph: bytes
    plan: bytes | None
    runner: Runner


def _fit(compared: ComparedAnswers, refused: NDArray[np.bool_], radii: tuple[float, ...], wanted: _Wanted) -> RadiusMap:
    """The map that `calibrate` finds on the first of the images and tests on the others.

    Images that the guard has `refused` [N] are answered with radius 0 whatever the map is, and are left out.
    """
    kept = np.flatnonzero(~refused)
    fit, check = (compared.reference[part] for part in np.split(kept, [np.searchsorted(kept, wanted.fit_images)]))
    return calibrate(fit, check, radii=radii, alpha=wanted.alpha, delta=wanted.delta, target=wanted.target).radius_map


def _with_map(model: ModelVersion, radius_map: RadiusMap, guard: Guard) -> _Candidate:
    """The graph of `model` with another map and guard, and its plan, if it has one, built again from that."""
    served = onnx.load_from_string((model.path / GRAPH_NAME).read_bytes())
    graph = with_map(served, radius_map, guard).SerializeToString()
    plan, part = None, None
    if model.card.plan:
        batches, tf32 = model.card.plan.batches, model.card.plan.tf32
        plan = build_plan(graph, batches=batches, tf32=tf32, timing_cache=model.path.parent / TIMING_CACHE_NAME)
        part = plan_part(plan, batches=batches, tf32=tf32)
    card = model.card.with_graph(hashlib.sha256(graph).hexdigest(), part)
    return _Candidate(card, radius_map, guard, graph, plan, open_bytes(card, graph, plan))


def _check(candidate: _Candidate, images: ModelImages, compared: ComparedAnswers, wanted: _Wanted) -> OverclaimRate:
    """The test that the map passed in float64, once more, on what the served bytes answer."""
    served = answers(candidate.runner, images[wanted.fit_images :])
    reference = replace(compared[wanted.fit_images :], outputs=served).reference
    seen = count_overclaims(reference, served["certified_radius"], delta=wanted.delta)
    if seen.upper_bound > wanted.alpha:
        raise CalibrationError(
            f"served graph: expected overclaims of at most {wanted.alpha} with confidence {1 - wanted.delta}, as its "
            f"map has them, got {seen.count} of {seen.positive} positive radii; use more calibration images"
        )
    return overclaim_rate(seen)


def _calibration(
    candidate: _Candidate, images: ModelImages, wanted: _Wanted, monte_carlo: MonteCarlo, checked: OverclaimRate
) -> Calibration:
    """The part of the card that carries the promise."""
    confidence, sigma = 1 - wanted.delta, candidate.card.sigma
    return Calibration(
        promise=(
            f"With confidence {confidence:g} over the calibration draw, at most a share {wanted.alpha:g} of the "
            f"requests answered with a positive radius have a radius above what {monte_carlo.described} proves at "
            f"sigma = {sigma:g}, or another class than the smoothed classifier, for inputs drawn like the calibration "
            f"images."
        ),
        method=METHOD,
        alpha=wanted.alpha,
        confidence=confidence,
        target=wanted.target,
        radius_map=candidate.radius_map,
        guard=candidate.guard,
        fit=images.source(wanted.fit_images),
        check=images.source(len(images) - wanted.fit_images),
        monte_carlo=monte_carlo,
        overclaim=checked,
    )


def _publish(model: ModelVersion, candidate: _Candidate, card: Card, images: ModelImages) -> ModelVersion:
    """Write the next version, with the first image for Triton to warm up with; pictures have no one size."""
    return publish(
        model.path.parents[1],
        card,
        graph=candidate.graph,
        base=(model.path / BASE_NAME).read_bytes(),
        plan=candidate.plan,
        warm_up=images.sent[:1].tobytes() if isinstance(images.sent, np.ndarray) else None,
    )
