"""Calibration of what is served, graph or plan: held itself against Certify of its base classifier, on held-out images.

Needs no torch: images come as arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from heatserve.certification.audit import certified_accuracy
from heatserve.certification.calibration import (
    METHOD,
    CalibrationError,
    Overclaims,
    Reference,
    calibrate,
    count_overclaims,
    radius_grid,
    require_images,
)
from heatserve.certification.errors import HeatserveError
from heatserve.certification.monte_carlo import ABSTAIN, largest_provable
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.provenance import now, versions
from heatserve.certification.radius import Float64Array, FloatArray, RadiusMap
from heatserve.certification.sequential import provable
from heatserve.export.calibration.ledger import certify_images, file_in, recipe_of
from heatserve.export.card import (
    BASE_NAME,
    GRAPH_NAME,
    Calibration,
    Card,
    CertifiedAccuracy,
    Evaluation,
    MonteCarlo,
    OverclaimRate,
)
from heatserve.export.graph.build import with_map
from heatserve.export.images import SampledImages
from heatserve.export.repository.layout import CONFIG_NAME, TIMING_CACHE_NAME, ModelVersion, publish
from heatserve.export.repository.settings import read_config
from heatserve.export.runtime.answers import ModelImages, answers, check_images, model_images
from heatserve.export.runtime.served import open_bytes, open_served
from heatserve.export.runtime.session import Answer
from heatserve.export.runtime.tensorrt import build_plan, plan_part

RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5)
Outputs = dict[str, NDArray[Any]]
"""By name, each [N, …]."""
FIT_SHARE = 1 / 3
"""Share of the calibration images that a sequence of maps is fitted on; the rest test it."""


def calibrate_model(
    model: ModelVersion,
    calibration: SampledImages,
    test: SampledImages,
    *,
    alpha: float,
    delta: float,
    monte_carlo: MonteCarlo,
    test_monte_carlo: MonteCarlo | None = None,
    target: float | None = None,
    accept: Callable[[Evaluation], object] = lambda _: None,
    kept: Path | None = None,
    progress: Progress = unseen,
) -> ModelVersion:
    """Publish the next version of `model`, whose certified radii carry the promise on its card.

    Args:
        model: exported, calibrated before or not.
        calibration: images that training never saw; maps are fitted on the first third, and tested on the rest. The
            first of them is written beside the model, for Triton to warm up with.
        test: images that neither training nor calibration saw; everything the card reports is measured on them.
        alpha: α, bound on the overclaim rate given a positive radius.
        delta: δ; the bound holds with confidence 1 − δ over the draw of the calibration images.
        monte_carlo: n₀, n, α, seed and sampling of the Certify that everything is held against; or the decision on one
            radius, the only one that is served then.
        test_monte_carlo: that of the test images, where it is to be another one.
        target: the radius that matters most (L2, pixels in [0,1]); None: the larger, the better, or the one decided.
        accept: raises where what was measured on the test images is not good enough to publish.
        kept: folder of what Certify found: an interrupted calibration goes on from it, and models of one base share it.
        progress: see `Progress`.

    Raises:
        CalibrationError: too few images, or no map can be promised.
        HeatserveError: images of another shape than the model's, a target that Certify cannot prove, a `config.pbtxt`
            that is none, or what runs the model is not here (see `heatserve.export.runtime.served`).
    """
    read_config(model.path.parent / CONFIG_NAME)  # its settings are to be kept: better to fail before the work
    check_images(model, test)
    images = model_images(model, calibration)
    radii = servable_radii(model.card.sigma, monte_carlo, target)
    fit_images = round(len(images) * FIT_SHARE)
    require_images(len(images) - fit_images, alpha=alpha, delta=delta)  # before Certify takes its time
    reference, outputs = hold_against_certify(
        model, open_served(model), images, monte_carlo, kept=kept, progress=progress
    )
    fit, check = reference[:fit_images], reference[fit_images:]
    radius_map = calibrate(fit, check, radii=radii, alpha=alpha, delta=delta, target=target).radius_map
    files = _with_map(model, radius_map)
    answer = open_bytes(files.card, files.graph, files.plan)
    proven = [outputs[name][fit_images:] for name in ("proven_label", "proven_radius")]
    seen = _check_served(answers(answer, images[fit_images:]), *proven, alpha=alpha, delta=delta)
    evaluation = evaluate(
        model,
        answer,
        model_images(model, test),
        delta=delta,
        monte_carlo=test_monte_carlo or monte_carlo,
        kept=kept,
        progress=progress,
    )
    accept(evaluation)
    card = files.card.model_copy(
        update={
            "calibration": Calibration(
                promise=_promise(alpha, delta, monte_carlo, model.card.sigma),
                method=METHOD,
                alpha=alpha,
                confidence=1 - delta,
                target=target,
                radius_map=radius_map,
                fit=images.source(len(fit)),
                check=images.source(len(check)),
                monte_carlo=monte_carlo,
                overclaim=_rate(seen),
            ),
            "evaluation": evaluation,
            "attack": None,  # it was another graph's
            "versions": {**model.card.versions, **versions("python", "onnx", "onnxruntime", "numpy", "scipy")},
            "date": now(),
        }
    )
    base = (model.path / BASE_NAME).read_bytes()
    return publish(
        model.path.parents[1],
        card,
        graph=files.graph,
        base=base,
        plan=files.plan,
        warm_up=_warm_up(images),
    )


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


def _warm_up(data: ModelImages) -> bytes | None:
    """The first image as the bytes of the input tensor; pictures have no one size."""
    return data.sent[:1].tobytes() if isinstance(data.sent, np.ndarray) else None


@dataclass(frozen=True)
class _Files:
    """What the next version serves, with a card that names it."""

    card: Card
    graph: bytes
    plan: bytes | None


def _with_map(model: ModelVersion, radius_map: RadiusMap) -> _Files:
    """The graph of `model` with another map, and its plan, if it has one, built again from that."""
    graph = with_map(onnx.load_from_string((model.path / GRAPH_NAME).read_bytes()), radius_map).SerializeToString()
    changes: dict[str, Any] = {"graph_sha256": hashlib.sha256(graph).hexdigest()}
    plan = None
    if model.card.plan:
        batches, tf32 = model.card.plan.batches, model.card.plan.tf32
        cache = model.path.parent / TIMING_CACHE_NAME
        plan = build_plan(graph, batches=batches, tf32=tf32, timing_cache=cache)
        changes["plan"] = plan_part(plan, batches=batches, tf32=tf32)
    return _Files(model.card.model_copy(update=changes), graph, plan)


def _check_served(
    outputs: Outputs, proven_label: NDArray[np.int64], proven_radius: Float64Array, *, alpha: float, delta: float
) -> Overclaims:
    """The test that the map passed in float64, once more, on what the served bytes answer."""
    reference = _reference(outputs, proven_label, proven_radius)
    seen = count_overclaims(reference, outputs["certified_radius"], delta=delta)
    if seen.upper_bound > alpha:
        raise CalibrationError(
            f"served graph: expected overclaims of at most {alpha} with confidence {1 - delta}, as its map has them, "
            f"got {seen.count} of {seen.positive} positive radii; use more calibration images"
        )
    return seen


def hold_against_certify(
    model: ModelVersion,
    answer: Answer,
    data: ModelImages,
    monte_carlo: MonteCarlo,
    *,
    kept: Path | None,
    progress: Progress,
) -> tuple[Reference, Outputs]:
    """What is answered on the images, and the reference that Certify gives for it.

    To the outputs [N] are added `proven_label` and `proven_radius` of Certify, and `smoothed_label`, the class with the
    most votes. What Certify finds is kept in a file of the folder `kept`, and read from there where it is known.
    """
    outputs = answers(answer, data)
    recipe = recipe_of(model, data, monte_carlo)
    results = file_in(kept, recipe, data) if kept else None
    rows = certify_images(model, data, recipe, results=results, progress=progress)
    labels = np.array([row.predicted for row in rows])
    radius = np.array([row.radius for row in rows])
    return _reference(outputs, labels, radius), {
        **outputs,
        "proven_label": labels,
        "proven_radius": radius,
        "smoothed_label": np.array([row.guess for row in rows]),
    }


def _reference(outputs: Outputs, proven_label: NDArray[np.int64], proven_radius: Float64Array) -> Reference:
    return Reference(
        probabilities=outputs["probabilities"].astype(np.float64),
        agrees=(proven_label == outputs["label"]) & (proven_label != ABSTAIN),
        proven=proven_radius,
    )


def _promise(alpha: float, delta: float, monte_carlo: MonteCarlo, sigma: float) -> str:
    return (
        f"With confidence {1 - delta:g} over the calibration draw, at most a share {alpha:g} of the requests answered "
        f"with a positive radius have a radius above what {monte_carlo.described} proves at sigma = {sigma:g}, or "
        f"another class than the smoothed classifier, for inputs drawn like the calibration images."
    )


def evaluate(
    model: ModelVersion,
    answer: Answer,
    data: ModelImages,
    *,
    delta: float,
    monte_carlo: MonteCarlo,
    kept: Path | None = None,
    progress: Progress = unseen,
) -> Evaluation:
    """Hold what `model` answers, or what its next version would, against Certify of its base classifier on `data`.

    Bounds on overclaim rates hold with confidence 1 − delta each.
    """
    reference, outputs = hold_against_certify(model, answer, data, monte_carlo, kept=kept, progress=progress)
    right = outputs["label"] == data.labels
    proven_right = outputs["proven_label"] == data.labels

    def rate(name: str) -> OverclaimRate:
        return _rate(count_overclaims(reference, as_judged(outputs[name], monte_carlo), delta=delta))

    def accuracy(name: str) -> tuple[float, ...]:
        return certified_accuracy(right, outputs[name].astype(np.float64), RADII)

    return Evaluation(
        data=data.source(len(reference)),
        monte_carlo=monte_carlo,
        clean_accuracy=float(right.mean()),
        smoothed_accuracy=float((outputs["smoothed_label"] == data.labels).mean()),
        agreement=float((outputs["smoothed_label"] == outputs["label"]).mean()),
        calibrated=rate("certified_radius"),
        nominal=rate("nominal_radius"),
        certified_accuracy=CertifiedAccuracy(
            radii=RADII,
            single_pass=accuracy("certified_radius"),
            l_bound=accuracy("l_bound"),
            nominal=accuracy("nominal_radius"),
            monte_carlo=certified_accuracy(proven_right, outputs["proven_radius"], RADII),
        ),
    )


def as_judged(radius: FloatArray, monte_carlo: MonteCarlo) -> FloatArray:
    """Radii [N] as far as the reference can judge them: it knows all radii, or, of those at least as large, one."""
    decided = monte_carlo.decides
    return radius if decided is None else np.where(radius >= decided, decided, 0.0)


def _rate(seen: Overclaims) -> OverclaimRate:
    return OverclaimRate(
        images=seen.images, positive=seen.positive, overclaims=seen.count, upper_bound=seen.upper_bound
    )
