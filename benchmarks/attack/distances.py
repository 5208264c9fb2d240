"""How far PGD and DDN have to go, and what they reach within the served and the proven radii."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import nn

from heatserve.benchmarks.attack.pgd_ddn import DDN, PGD, NoiseAveraged, TopKMisclassification
from heatserve.benchmarks.attack.settings import AttackSettings
from heatserve.benchmarks.attack.target import IN_ONE_PASS, Target, finite, tensor_batches
from heatserve.benchmarks.records.attack import DistanceRow, WithinProven, WithinServed
from heatserve.certification.monte_carlo import Certificate
from heatserve.certification.progress import Progress
from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.export.contract import Outputs
from heatserve.export.images import LabelledImages

_STRETCHES = (1.0, 1.1, 1.25, 1.5, 2.0)


def measure_distances(
    target: Target,
    data: LabelledImages,
    proven: list[Certificate],
    outputs: Outputs,
    settings: AttackSettings,
    progress: Progress,
) -> tuple[tuple[DistanceRow, ...], WithinServed, WithinProven]:
    """A row for each system and attack, and what happened within the served and within the proven radii."""
    noise = torch.Generator().manual_seed(settings.seed)
    averaged = NoiseAveraged(target.base, sigma=target.victim.sigma, samples=settings.noise_samples, generator=noise)
    systems: dict[str, tuple[nn.Module, NDArray[np.int64], int]] = {
        "single pass": (target.single_pass, outputs["label"], 1),
        "smoothed": (averaged, np.array([c.guess for c in proven]), settings.noise_samples),
    }
    criterion = partial(TopKMisclassification, k=settings.top_k)
    attacks: dict[str, PGD | DDN] = {"PGD": PGD(steps=settings.steps), "DDN": DDN(steps=settings.steps)}
    rows, nearest = [], {}
    for system, (network, classes, copies) in systems.items():
        best = data.images.copy()
        shortest = np.full(len(best), np.inf)
        for name, attack in attacks.items():
            batches = tensor_batches(data.images, classes, copies=copies)
            found = np.concatenate(
                [
                    attack(network, x, c, criterion=criterion, epsilon=settings.epsilon).numpy()
                    for x, c in progress(batches, len(batches), f"{name}, {system}")
                ]
            )
            found, distance = _judged(target, system, data.images, found, classes, settings)
            rows.append(_row(system, name, distance, classes == data.labels, settings.epsilon))
            nearer = distance < shortest
            best[nearer], shortest[nearer] = found[nearer], distance[nearer]
        nearest[system] = (best, shortest)
    radius = outputs["certified_radius"]
    served = WithinServed(positive=int((radius > 0).sum()), changed=int((nearest["single pass"][1] < radius).sum()))
    found = within_proven(target, data.images, proven, [points for points, _ in nearest.values()], settings)
    return tuple(rows), served, found


def _row(system: str, attack: str, distance: Float64Array, right: NDArray[np.bool_], epsilon: float) -> DistanceRow:
    """Distances to another answer, and to misclassification: 0 where the answer is wrong to begin with."""
    misclassified = np.where(right, distance, 0.0)
    return DistanceRow(
        system=system,
        attack=attack,
        changed=float(np.isfinite(distance).mean()),
        median=finite(np.median(distance)),
        mean=float(np.minimum(distance, epsilon).mean()),
        median_misclassified=finite(np.median(misclassified)),
        mean_misclassified=float(np.minimum(misclassified, epsilon).mean()),
        distances=tuple(finite(d) for d in distance),
        right=tuple(right.tolist()),
    )


def within_proven(
    target: Target,
    images: Float32Array,
    proven: list[Certificate],
    attacked: Sequence[Float32Array],
    settings: AttackSettings,
) -> WithinProven:
    """Each nearest attack, shortened to just inside the radius that Certify proves where it was farther.

    A violation is another class by Predict (n = `votes`, its alpha), where Certify proved that there is none.
    """
    radius = np.array([certificate.radius for certificate in proven])
    classes = np.array([certificate.label for certificate in proven])
    tested = violations = majority = 0
    for found in attacked:
        distance = _norm(found - images)
        chosen = (radius > 0) & (distance > 0)
        scale = np.minimum(1.0, 0.99 * radius[chosen] / distance[chosen]).astype(np.float32)
        points = images[chosen] + scale[:, None, None, None] * (found - images)[chosen]
        for votes, label in zip(_votes(target, points, settings), classes[chosen], strict=True):
            second, first = np.argsort(votes, kind="stable")[-2:]
            decided = binomtest(int(votes[first]), int(votes[first] + votes[second])).pvalue <= target.monte_carlo.alpha
            tested += 1
            majority += int(first != label)
            violations += int(first != label and decided)
    return WithinProven(tested=tested, violations=violations, majority_differs=majority, votes=settings.votes)


def _judged(
    target: Target,
    system: str,
    images: Float32Array,
    found: Float32Array,
    classes: NDArray[np.int64],
    settings: AttackSettings,
) -> tuple[Float32Array, Float64Array]:
    """Points that are confirmed to change the class, and their distances; inf where none is.

    An attack stops on the boundary, where a vote may go either way: what is not confirmed is tried again farther out.
    """

    def changes(tried: Float32Array, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return _changed(target, system, tried, classes[rows], settings)

    return farther_out(images, found, changes, epsilon=settings.epsilon)


def farther_out(
    images: Float32Array,
    found: Float32Array,
    changes: Callable[[Float32Array, NDArray[np.int64]], NDArray[np.bool_]],
    *,
    epsilon: float,
    stretches: Sequence[float] = _STRETCHES,
) -> tuple[Float32Array, Float64Array]:
    """Points at or a little beyond `found` that are confirmed to change the class, and their distances; inf: none is.

    Args:
        images: [N, C, H, W]; where `found` is the same, nothing was found.
        found: what an attack ended with, [N, C, H, W].
        changes: says of points [n, C, H, W] near the images at some rows [n] whether they are answered otherwise.
        epsilon: the largest distance that counts.
        stretches: how many times as far points are tried, in this order.
    """
    points, distance = found.copy(), np.full(len(found), np.inf)
    for stretch in stretches:
        (left,) = np.nonzero(np.isinf(distance) & (_norm(found - images) > 0))
        if left.size:
            tried = np.clip(images[left] + np.float32(stretch) * (found - images)[left], 0, 1)
            away = _norm(tried - images[left])
            success = changes(tried, left) & (away <= epsilon * (1 + 1e-6))
            points[left[success]], distance[left[success]] = tried[success], away[success]
    return points, distance


def _changed(
    target: Target, system: str, images: Float32Array, classes: NDArray[np.int64], settings: AttackSettings
) -> NDArray[np.bool_]:
    """Whether the class is no longer among the k best, by the served graph or by the majority of the votes."""
    if system == "single pass":
        scores = target.serve(images)["probabilities"]
    else:
        scores = np.stack(_votes(target, images, settings))
    best = np.argsort(-scores, axis=1, kind="stable")[:, : settings.top_k]
    return np.asarray((best != classes[:, None]).all(axis=1))


def _votes(target: Target, images: Float32Array, settings: AttackSettings) -> list[NDArray[np.int64]]:
    """How often f answers each class [K], of `votes` noisy copies of each image."""
    noise = np.random.default_rng([settings.seed, 1])
    histograms = []
    for image in images:
        votes = np.zeros(len(target.model.card.class_names), np.int64)
        for start in range(0, settings.votes, IN_ONE_PASS):
            copies = min(IN_ONE_PASS, settings.votes - start)
            eta = noise.standard_normal((copies, *image.shape), dtype=np.float32)
            answers = target.vote(image + np.float32(target.victim.sigma) * eta).argmax(1)
            votes += np.bincount(answers, minlength=len(votes))
        histograms.append(votes)
    return histograms


def _norm(displacement: Float32Array) -> Float64Array:
    return np.asarray(np.linalg.norm(displacement.reshape(len(displacement), -1).astype(np.float64), axis=1))
