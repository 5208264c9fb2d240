"""Calibration of what is served, graph or plan: its answers are compared with Certify of its base, on held-out images.

Needs no torch: images come as arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from heatserve.certification.audit import speaks_against
from heatserve.certification.binomial import lower_bound
from heatserve.certification.calibration import (
    METHOD,
    CalibrationError,
    Counted,
    candidate_maps,
    counted,
    fixed_sequence_test,
    radius_grid,
    require_shares,
)
from heatserve.certification.errors import HeatserveError
from heatserve.certification.guard import Guard, fit_guard
from heatserve.certification.monte_carlo import largest_provable
from heatserve.certification.radius import RadiusMap
from heatserve.certification.sequential import provable
from heatserve.export.calibration.attempts import (
    Asked,
    AttemptTerms,
    ask,
    further_attempt,
    read_attempts,
    record_attempt,
    record_outcome,
    terms_of,
)
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.evaluate import ComparedAnswers, compare_with_certify, evaluate
from heatserve.export.calibration.held_out import check_recorded
from heatserve.export.card import BASE_NAME, GRAPH_NAME, Card, read_verified
from heatserve.export.card_parts import Calibration, Evaluation, MonteCarlo, OverclaimCount
from heatserve.export.contract import Outputs
from heatserve.export.graph.build import with_map
from heatserve.export.images import SampledImages
from heatserve.export.reference import InputReference, reference_of
from heatserve.export.repository.layout import CONFIG_NAME, TIMING_CACHE_NAME, ModelVersion
from heatserve.export.repository.publishing import publish
from heatserve.export.repository.settings import read_config
from heatserve.export.repository.smoothed import SmoothedWork, require_smoothed
from heatserve.export.repository.tiers import read_tier_configs
from heatserve.export.runtime.answers import ModelImages, answers, check_images, model_images
from heatserve.export.runtime.served import open_bytes, open_served
from heatserve.export.runtime.session import Runner
from heatserve.export.runtime.tensorrt import build_plan, plan_part

MOST_REJECTION_LEVEL = 0.05
"""A promise that holds is refused for the figures on its test images with at most this probability, and at most δ."""
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
    target: float | None = None,
    level: float | None = None,
    other_images: int = 0,
    vouched: bool = False,
    accept: Callable[[Evaluation], object] = lambda _: None,
) -> ModelVersion:
    """Publish the next version of `model`, whose certified radii carry the promise on its card.

    The attempt is recorded in the model's folder before its maps are tested, and counts for all later ones of the
    repository: see `heatserve.export.calibration.attempts`.

    Args:
        model: exported, calibrated before or not.
        calibration: images that training never saw; the guard and the maps are fitted on the first third, and the maps
            tested on the rest. The first of them is written beside the model, for Triton to warm up with.
        test: images that neither training nor calibration saw; everything the card reports is measured on them, with
            other noise (the next seed).
        alpha: α, bound on the overclaim rate given a positive radius.
        delta: δ; the bound holds with confidence 1 − δ over the draw of the calibration images, for whichever one is
            chosen of the attempts on them so far.
        certifier: the Certify that all is compared with, or the decision on one radius, the only one served then.
        target: the radius that matters most (L2, pixels in [0,1]); None: the larger, the better, or the one decided.
        level: what the maps are tested at, where many networks are compared and none is chosen by their cards; the
            confidence is then 1 less all that was spent. None: half of what earlier attempts left of δ.
        other_images: how many of the test images, at most, are changed in each way of `other_inputs`, for the card to
            say what such inputs are answered; 0: none.
        vouched: whether it is only the user's word that training never saw these images, which the card then says.
        accept: raises `CalibrationError` where what was measured on the test images is not good enough to publish.

    Raises:
        AttemptsError: earlier attempts left nothing of δ, test images rejected this very attempt before, or the records
            are damaged.
        CalibrationError: too few images, no map can be promised, or the test images reject α at level min(δ, 0.05), as
            an audit tests it; says what a further attempt costs.
        DeterministicError: the radii of the model are proven, and there is nothing to calibrate.
        HeatserveError: nobody vouches, and a network of the lineage was imported or is unknown; images of another shape
            than the model's, a target that Certify cannot prove, a `config.pbtxt` that is none, or what runs the model
            is not here (see `heatserve.export.runtime.served`).
    """
    require_smoothed(model, SmoothedWork.CALIBRATION)
    if not vouched:
        check_recorded(model.card)
    # Settings are to be kept: better to fail before the work.
    read_config(model.path.parent / CONFIG_NAME)
    read_tier_configs(model.path.parents[1], model.name)
    check_images(model, test)
    images, tested_on = model_images(model, calibration), model_images(model, test)
    radii = servable_radii(model.card.sigma, certifier.monte_carlo, target)
    repository = model.path.parents[1]
    asked = ask(
        model,
        images,
        tested_on,
        fit_images=round(len(images) * FIT_SHARE),
        alpha=alpha,
        delta=delta,
        target=target,
        monte_carlo=certifier.monte_carlo,
        level=level,
    )
    terms_of(asked, read_attempts(repository))  # before Certify takes its time
    compared = compare_with_certify(model, open_served(model), images, certifier)
    attempt = _attempt(model, asked, images, compared, radii)
    evaluated = evaluate(
        model,
        attempt.candidate.runner,
        tested_on,
        delta=delta,
        certifier=figures_certifier(certifier),
        other_images=other_images,
    )
    _check_figures(repository, asked, evaluated, images)
    try:
        accept(evaluated)
    except CalibrationError:
        record_outcome(repository, asked, passed=False)
        raise
    card = attempt.candidate.card
    part = _calibration(asked, attempt, sigma=card.sigma, vouched=vouched)
    published = _publish(model, attempt, card.calibrated(part, evaluated), images)
    record_outcome(repository, asked, passed=True)
    return published


def figures_certifier(certifier: Certifier) -> Certifier:
    """The Certify of a card's figures: that of its calibration, with noise of the next seed."""
    monte_carlo = certifier.monte_carlo
    return certifier.running(monte_carlo.model_copy(update={"seed": (monte_carlo.seed + 1) % 2**32}))


def servable_radii(sigma: float, monte_carlo: MonteCarlo, target: float | None) -> tuple[float, ...]:
    """The radii that a calibration may serve: all that the reference can prove in steps of σ/10, or the one it decides.

    Raises:
        HeatserveError: what is asked for cannot be proven.
    """
    require_shares(certify_alpha=monte_carlo.alpha)
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
class _Candidate:
    """What the next version serves, its card so far, and its answers."""

    card: Card
    radius_map: RadiusMap
    guard: Guard
    graph: bytes
    plan: bytes | None
    runner: Runner


@dataclass(frozen=True)
class _Passed:
    """An attempt that passed: what is to be served, its terms, and what was counted on the images of `check`."""

    candidate: _Candidate
    terms: AttemptTerms
    seen: Counted
    reference: InputReference
    """How these images lie, for live inputs to be compared with."""


def _attempt(
    model: ModelVersion, asked: Asked, images: ModelImages, compared: ComparedAnswers, radii: tuple[float, ...]
) -> _Passed:
    """Fit guard and maps on the first of the images, and test the maps on the others, once the attempt is recorded.

    Images that the guard refuses are answered 0 whatever the map is, and are left out.
    """
    repository, fit_images = model.path.parents[1], asked.fit.images
    guard = fit_guard(images.images[:fit_images])
    kept = np.flatnonzero(~guard.refuses(images.images))
    fit, check = (compared.reference[part] for part in np.split(kept, [np.searchsorted(kept, fit_images)]))
    maps = candidate_maps(fit, radii=radii, alpha=asked.alpha, target=asked.target)
    terms = record_attempt(repository, asked)
    try:
        radius_map = fixed_sequence_test(maps, fit, check, alpha=asked.alpha, delta=terms.level).radius_map
        candidate = _with_map(model, radius_map, guard)
        checked, served = images[fit_images:], answers(candidate.runner, images[fit_images:])
        seen = _check(served, compared[fit_images:], asked, terms)
    except CalibrationError as error:
        record_outcome(repository, asked, passed=False)
        raise CalibrationError(f"{error}; {further_attempt(repository, asked, images.split_size)}") from None
    reference = reference_of(
        candidate.card, guard=guard, data=asked.check, probabilities=served["probabilities"], images=checked.images
    )
    return _Passed(candidate, terms, seen, reference)


def _with_map(model: ModelVersion, radius_map: RadiusMap, guard: Guard) -> _Candidate:
    """The graph of `model` with another map and guard, and its plan, if it has one, built again from that."""
    served = onnx.load_from_string(read_verified(model.path / GRAPH_NAME, model.card.graph_sha256))
    graph = with_map(served, radius_map, guard).SerializeToString()
    plan, part = None, None
    if model.card.plan:
        batches, tf32 = model.card.plan.batches, model.card.plan.tf32
        plan = build_plan(graph, batches=batches, tf32=tf32, timing_cache=model.path.parent / TIMING_CACHE_NAME)
        part = plan_part(plan, batches=batches, tf32=tf32)
    card = model.card.with_graph(hashlib.sha256(graph).hexdigest(), part)
    return _Candidate(card, radius_map, guard, graph, plan, open_bytes(card, graph, plan))


def _check(served: Outputs, compared: ComparedAnswers, asked: Asked, terms: AttemptTerms) -> Counted:
    """The test that the map passed in float64, once more, on what the served bytes answer to the images of `check`."""
    seen = counted(replace(compared, outputs=served).reference, served["certified_radius"])
    if not seen.supports(asked.alpha, terms.level):
        raise CalibrationError(
            f"served graph: expected overclaims of at most {asked.alpha:g}, tested at level {terms.level:g}, as its "
            f"map has them, got {seen.count} of {seen.positive} positive radii; use more calibration images"
        )
    return seen


def _check_figures(repository: Path, asked: Asked, evaluated: Evaluation, images: ModelImages) -> None:
    """Publish nothing whose own figures would fail an audit: the exact binomial test of α, at level δ or less."""
    seen, level = evaluated.calibrated, min(asked.delta, MOST_REJECTION_LEVEL)
    if not speaks_against(seen.overclaims, seen.positive, alpha=asked.alpha, delta=level):
        return
    figures = OverclaimCount(images=seen.images, positive=seen.positive, overclaims=seen.overclaims)
    record_outcome(repository, asked, passed=False, rejected=figures)
    bound = float(lower_bound(seen.overclaims, seen.positive, alpha=level))
    raise CalibrationError(
        f"test images: expected overclaims of at most {asked.alpha:g} of the positive radii, as the calibration images "
        f"have them, got {seen.overclaims} of {seen.positive}: with confidence {1 - level:g} the rate is above "
        f"{bound:.3g}, and nothing was published; look whether the two are drawn alike (copies of training images, "
        f"another source), and calibrate on images like those to come; "
        f"{further_attempt(repository, asked, images.split_size)}"
    )


def _calibration(asked: Asked, attempt: _Passed, *, sigma: float, vouched: bool) -> Calibration:
    """The part of the card that carries the promise, for a smoothed classifier of σ = `sigma`."""
    terms, seen = attempt.terms, attempt.seen
    confidence = 1 - asked.delta if asked.level is None else max(0.0, 1 - terms.spent - terms.level)
    part = Calibration(
        promise="",
        method=METHOD,
        alpha=asked.alpha,
        confidence=confidence,
        looks=terms.looks,
        spent=terms.spent,
        level=terms.level,
        target=asked.target,
        radius_map=attempt.candidate.radius_map,
        guard=attempt.candidate.guard,
        fit=asked.fit,
        check=asked.check,
        vouched=vouched,
        monte_carlo=asked.monte_carlo,
        overclaim=OverclaimCount(images=seen.images, positive=seen.positive, overclaims=seen.count),
    )
    return part.model_copy(update={"promise": part.promised(sigma)})


def _publish(model: ModelVersion, attempt: _Passed, card: Card, images: ModelImages) -> ModelVersion:
    """Write the next version, with the first image for Triton to warm up with; pictures have no one size."""
    return publish(
        model.path.parents[1],
        card,
        graph=attempt.candidate.graph,
        base=(model.path / BASE_NAME).read_bytes(),
        plan=attempt.candidate.plan,
        reference=attempt.reference,
        warm_up=images.sent[:1].tobytes() if isinstance(images.sent, np.ndarray) else None,
    )
