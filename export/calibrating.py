"""Calibration of a served graph: the graph itself, held against Certify of its base classifier, on held-out images.

Needs no torch: images come as arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from certification.audit import certified_accuracy
from certification.calibration import (
    METHOD,
    CalibrationError,
    Overclaims,
    Reference,
    calibrate,
    count_overclaims,
    radius_grid,
)
from certification.errors import HeatserveError
from certification.monte_carlo import ABSTAIN, Certificate, certify, largest_provable
from certification.noise import source_of
from certification.radius import Float32Array
from export.card import (
    BASE_NAME,
    GRAPH_NAME,
    Calibration,
    CertifiedAccuracy,
    Evaluation,
    MonteCarlo,
    OverclaimRate,
    Split,
    now,
    versions,
)
from export.graph import with_map
from export.repository import CONFIG_NAME, ModelVersion, publish
from export.session import classifier, open_session, run
from export.settings import read_config

RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5)
FIT_SHARE = 1 / 3
"""Share of the calibration images that a sequence of maps is fitted on; the rest test it."""

Progress = Callable[[Iterable[Certificate], int, str], Iterable[Certificate]]
"""Wraps an iterable of known length and description, to show how far it is."""


@dataclass(frozen=True)
class LabelledImages:
    """Images FP32 [N, C, H, W] in [0,1] with labels [N], and where they come from."""

    images: Float32Array
    labels: NDArray[np.int64]
    dataset: str
    split: str
    seed: int

    def source(self, images: int) -> Split:
        """`images` of them, as the card names them."""
        return Split(dataset=self.dataset, split=self.split, images=images, seed=self.seed)


def calibrate_model(
    model: ModelVersion,
    calibration: LabelledImages,
    test: LabelledImages,
    *,
    alpha: float,
    delta: float,
    monte_carlo: MonteCarlo,
    test_monte_carlo: MonteCarlo | None = None,
    target: float | None = None,
    progress: Progress = lambda certificates, _, __: certificates,
) -> ModelVersion:
    """Publish the next version of `model`, whose certified radii carry the promise on its card.

    Args:
        model: exported, calibrated before or not.
        calibration: images that training never saw; maps are fitted on the first third, and tested on the rest. The
            first of them is written beside the model, for Triton to warm up with.
        test: images that neither training nor calibration saw; everything the card reports is measured on them.
        alpha: α, bound on the overclaim rate given a positive radius.
        delta: δ; the bound holds with confidence 1 − δ over the draw of the calibration images.
        monte_carlo: n₀, n, α, seed and sampling of the Certify that everything is held against.
        test_monte_carlo: that of the test images, where it is to be another one.
        target: the radius that matters most (L2, pixels in [0,1]); None: the larger, the better.
        progress: see `Progress`.

    Raises:
        CalibrationError: too few images, or no map can be promised.
        HeatserveError: images of another shape than the model's, a target that Certify cannot prove, or a
            `config.pbtxt` that is none.
    """
    read_config(model.path.parent / CONFIG_NAME)  # its settings are to be kept: better to fail before the work
    for part in (calibration, test):
        check_shape(model, part)
    cap = model.card.sigma * largest_provable(n=monte_carlo.n, alpha=monte_carlo.alpha)
    if target is not None and not 0 < target <= cap:
        raise HeatserveError(
            f"radius: expected one above 0 that Certify can prove, with n = {monte_carlo.n} and σ = "
            f"{model.card.sigma:g} at most {cap:.4g}, got {target:g}"
        )
    graph = (model.path / GRAPH_NAME).read_bytes()
    reference, _ = hold_against_certify(model, graph, calibration, monte_carlo, progress)
    fit_images = round(len(reference) * FIT_SHARE)
    fit, check = reference[:fit_images], reference[fit_images:]
    radii = radius_grid(sigma=model.card.sigma, cap=cap, target=target)
    radius_map = calibrate(fit, check, radii=radii, alpha=alpha, delta=delta, target=target).radius_map
    served = with_map(onnx.load_from_string(graph), radius_map).SerializeToString()
    seen = _check_served(served, calibration.images[fit_images:], check, alpha=alpha, delta=delta)
    test_monte_carlo = test_monte_carlo or monte_carlo
    card = model.card.model_copy(
        update={
            "graph_sha256": hashlib.sha256(served).hexdigest(),
            "calibration": Calibration(
                promise=_promise(alpha, delta, monte_carlo, model.card.sigma),
                method=METHOD,
                alpha=alpha,
                confidence=1 - delta,
                target=target,
                radius_map=radius_map,
                fit=calibration.source(len(fit)),
                check=calibration.source(len(check)),
                monte_carlo=monte_carlo,
                overclaim=_rate(seen),
            ),
            "evaluation": evaluate(model, served, test, delta=delta, monte_carlo=test_monte_carlo, progress=progress),
            "attack": None,  # it was another graph's
            "versions": {**model.card.versions, **versions("onnx", "onnxruntime", "numpy", "scipy")},
            "date": now(),
        }
    )
    return publish(
        model.path.parents[1],
        card,
        graph=served,
        base=(model.path / BASE_NAME).read_bytes(),
        warm_up=calibration.images[0].tobytes(),
    )


def _check_served(served: bytes, images: Float32Array, check: Reference, *, alpha: float, delta: float) -> Overclaims:
    """The test that the map passed in float64, once more, on what the served bytes answer."""
    radius = run(open_session(served), images)["certified_radius"]
    seen = count_overclaims(check, radius, delta=delta)
    if seen.upper_bound > alpha:
        raise CalibrationError(
            f"served graph: expected overclaims of at most {alpha} with confidence {1 - delta}, as its map has them, "
            f"got {seen.count} of {seen.positive} positive radii; use more calibration images"
        )
    return seen


def check_shape(model: ModelVersion, data: LabelledImages) -> None:
    """Refuse images that are not of the model's input shape."""
    if data.images.shape[1:] != model.card.input_shape:
        raise HeatserveError(
            f"{data.dataset}: expected images of shape {list(model.card.input_shape)} for model {model.name}, "
            f"got {list(data.images.shape[1:])}"
        )


def hold_against_certify(
    model: ModelVersion,
    graph: bytes,
    data: LabelledImages,
    monte_carlo: MonteCarlo,
    progress: Progress,
) -> tuple[Reference, dict[str, NDArray[Any]]]:
    """The outputs of `graph` on the images, and the reference that Certify gives for them.

    To the outputs [N] are added `proven_label` and `proven_radius` of Certify, and `smoothed_label`, the class with the
    most votes.
    """
    outputs = run(open_session(graph), data.images)
    base = classifier(open_session(model.path / BASE_NAME))
    certificates = certify(
        base,
        data.images,
        sigma=model.card.sigma,
        n0=monte_carlo.n0,
        n=monte_carlo.n,
        alpha=monte_carlo.alpha,
        seed=monte_carlo.seed,
        noise=source_of(monte_carlo.sampling),
    )
    proven = list(progress(certificates, len(data.images), f"Certify, {data.split} images"))
    labels = np.array([certificate.label for certificate in proven])
    radius = np.array([certificate.radius for certificate in proven])
    reference = Reference(
        probabilities=outputs["probabilities"].astype(np.float64),
        agrees=(labels == outputs["label"]) & (labels != ABSTAIN),
        proven=radius,
    )
    return reference, {
        **outputs,
        "proven_label": labels,
        "proven_radius": radius,
        "smoothed_label": np.array([certificate.guess for certificate in proven]),
    }


def _promise(alpha: float, delta: float, monte_carlo: MonteCarlo, sigma: float) -> str:
    return (
        f"With confidence {1 - delta:g} over the calibration draw, at most a share {alpha:g} of the requests answered "
        f"with a positive radius have a radius above what Certify (n0 = {monte_carlo.n0}, n = {monte_carlo.n}, "
        f"alpha = {monte_carlo.alpha:g}, sigma = {sigma:g}) proves, or another class than the smoothed classifier, "
        f"for inputs drawn like the calibration images."
    )


def evaluate(
    model: ModelVersion,
    graph: bytes,
    data: LabelledImages,
    *,
    delta: float,
    monte_carlo: MonteCarlo,
    progress: Progress = lambda certificates, _, __: certificates,
) -> Evaluation:
    """Hold `graph`, a certified graph of `model`, against Certify of the model's base classifier on `data`.

    Bounds on overclaim rates hold with confidence 1 − delta each.
    """
    reference, outputs = hold_against_certify(model, graph, data, monte_carlo, progress)
    right = outputs["label"] == data.labels
    proven_right = outputs["proven_label"] == data.labels

    def rate(name: str) -> OverclaimRate:
        return _rate(count_overclaims(reference, outputs[name], delta=delta))

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


def _rate(seen: Overclaims) -> OverclaimRate:
    return OverclaimRate(
        images=seen.images, positive=seen.positive, overclaims=seen.count, upper_bound=seen.upper_bound
    )
