"""What each kind of certificate keeps of the accuracy, and what it costs: one pass of either kind, confirm and Certify.

Votes for an image are drawn once, and each question, a radius to confirm or Certify, is asked of them: each is a claim
of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from heatserve.benchmarks.confirming import draw_votes, replay
from heatserve.benchmarks.records.kinds import KindRow
from heatserve.certification.confirming import confirmation, threshold
from heatserve.certification.errors import HeatserveError
from heatserve.certification.monte_carlo import alpha_left, certificate_of
from heatserve.certification.noise import FLOAT32, GRID
from heatserve.certification.outcome import Ending
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.radius import Float64Array
from heatserve.export.card import BASE_NAME
from heatserve.export.images import SampledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import ModelImages, answers, model_images
from heatserve.export.runtime.served import open_served
from heatserve.export.runtime.session import classifier, open_session
from heatserve.export.runtime.timing import interleave, quantiles

KIND_RADII = (36 / 255, 72 / 255, 108 / 255, 0.25, 0.5)
"""L2, pixels in [0,1]: those of the literature on Lipschitz networks, and those of randomised smoothing."""
CONFIRM_ALPHA, CERTIFY_ALPHA = 1e-6, 1e-3
N0, N = 100, 1000
_ROUNDS = 30


def measure_single_passes(
    models: Sequence[ModelVersion], data: SampledImages, *, seed: int, progress: Progress = unseen
) -> list[KindRow]:
    """One row for each model: what it serves in one pass, of either kind.

    Raises:
        HeatserveError: a statistical model that is not calibrated.
    """
    rows, runners = [], [open_served(model) for model in models]
    inputs = [model_images(model, data) for model in models]
    ways: Mapping[str, Callable[[], object]] = {
        model.name: partial(answers, runner, images[:1])
        for model, runner, images in zip(models, runners, inputs, strict=True)
    }
    times = interleave(ways, rounds=_ROUNDS, seed=seed, progress=progress, description="one image")
    for model, runner, images in zip(models, runners, inputs, strict=True):
        card = model.card
        if card.promise is None:
            raise HeatserveError(f"{model.name}: expected a model that promises something; calibrate it first")
        starts = range(0, len(images), 500)
        parts = [answers(runner, images[i : i + 500]) for i in progress(starts, len(starts), model.name)]
        label, radius = (np.concatenate([part[name] for part in parts]) for name in ("label", "certified_radius"))
        right = label == images.labels
        rows.append(
            KindRow(
                model=model.name,
                graph_sha256=card.graph_sha256,
                kind=card.certificate_kind,
                way="one pass",
                alpha=card.calibration.alpha if card.calibration else None,
                data=images.source(len(images)),
                accuracy=float(right.mean()),
                certified=_shares(right, radius.astype(np.float64)),
                passes=1.0,
                milliseconds=quantiles(times[model.name])["p50"],
            )
        )
    return rows


def measure_proofs(
    model: ModelVersion, data: SampledImages, *, seed: int, progress: Progress = unseen
) -> tuple[KindRow, KindRow]:
    """What confirm says of each radius, and what Certify proves, with votes of a statistical model's base classifier.

    Args:
        model: also names the class that is confirmed.
        data: test images.
        seed: decides the noise. It is known here: the images were not chosen by somebody who knew it.
        progress: shows the images.
    """
    inputs, sigma = model_images(model, data), model.card.sigma
    noise = GRID if all(GRID.suits(image) for image in inputs.images) else FLOAT32
    base, begun = classifier(open_session(model.path / BASE_NAME)), time.perf_counter()
    drawn = draw_votes(base, inputs, n=N0 + N, sigma=sigma, seed=seed, noise=noise)
    votes = np.stack(list(progress(drawn, len(inputs), f"{model.name}: {N0 + N} votes")))
    each = 1000 * (time.perf_counter() - begun) / votes.size
    outputs = answers(open_served(model), inputs)
    left = partial(alpha_left, shape=inputs.images.shape[1:], votes=N0 + N, sigma=sigma, noise=noise)

    found, taken = [], []
    for radius in KIND_RADII:
        proven, used = _confirmed(outputs, votes, p=threshold(radius, sigma=sigma), alpha=left(CONFIRM_ALPHA))
        found.append(float((proven & (outputs["label"] == inputs.labels)).mean()))
        taken.append(used.mean())
    passes = 1 + float(np.mean(taken))
    accuracy = float((outputs["label"] == inputs.labels).mean())
    confirm = _proof(model, inputs, "confirm", CONFIRM_ALPHA, accuracy, tuple(found), passes, each)

    classes = outputs["probabilities"].shape[1]
    proofs = [
        certificate_of(
            *(np.bincount(part[part >= 0], minlength=classes) for part in (row[:N0], row[N0:])),
            sigma=sigma,
            n=N,
            alpha=left(CERTIFY_ALPHA),
            top_k=1,
        )
        for row in votes
    ]
    right = np.array([proof.label for proof in proofs]) == inputs.labels
    certified = _shares(right, np.array([proof.radius for proof in proofs]))
    return confirm, _proof(model, inputs, "certify", CERTIFY_ALPHA, float(right.mean()), certified, float(N0 + N), each)


def _confirmed(
    outputs: Mapping[str, NDArray[np.generic]], votes: NDArray[np.int64], *, p: float, alpha: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether votes prove the class of the single pass, image by image, and how many were needed."""
    classes = outputs["probabilities"].shape[1]
    said = [
        replay(confirmation(label=int(label), p=p, n=N, alpha=alpha), row, classes=classes)
        for label, row in zip(outputs["label"].tolist(), votes, strict=True)
    ]
    return np.array([one.reason is Ending.PROVEN for one in said]), np.array([one.votes for one in said])


def _proof(
    model: ModelVersion,
    data: ModelImages,
    way: str,
    alpha: float,
    accuracy: float,
    certified: tuple[float, ...],
    passes: float,
    each: float,
) -> KindRow:
    return KindRow(
        model=model.name,
        graph_sha256=model.card.graph_sha256,
        kind=model.card.certificate_kind,
        way=way,
        alpha=alpha,
        data=data.source(len(data)),
        accuracy=accuracy,
        certified=certified,
        passes=passes,
        milliseconds=passes * each,
    )


def _shares(right: NDArray[np.bool_], radius: Float64Array) -> tuple[float, ...]:
    return tuple(float((right & (radius >= wanted)).mean()) for wanted in KIND_RADII)
