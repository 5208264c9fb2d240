"""Falsification: distances of PGD and DDN, spoofed certificates, and what cheap defences change.

Searches differentiate the very graphs of the repository. Every figure is taken from the graphs themselves in ONNX
Runtime: the single pass from the served one, the smoothed class from Monte Carlo on the base classifier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor, nn

from certification.attacks import DDN, PGD, NoiseAveraged, TopKMisclassification
from certification.audit import certified_accuracy
from certification.binomial import upper_bound
from certification.calibration import Reference, count_overclaims
from certification.defences import Check, Discount, checks
from certification.errors import HeatserveError
from certification.monte_carlo import ABSTAIN, Certificate, certify
from certification.noise import FLOAT32
from certification.quantile import POLES
from certification.radius import Float32Array, Float64Array, RadiusMap
from certification.spoofing import Penalty, Search, Victim, spoof
from certification.voting import Classifier
from export.card import BASE_NAME, GRAPH_NAME, Attack, MonteCarlo, OverclaimRate, Spoofed, now
from export.differentiable import Logits, TorchGraph
from export.images import LabelledImages, as_taken
from export.repository import ModelVersion
from export.served import open_served
from export.session import classifier, open_session

AGREEMENT = 1e-4
"""The most that torch and ONNX Runtime may differ, in a probability and in a radius / σ."""
CERTIFIED_AT = (0.0, 0.1, 0.25)
"""Radii at which the cost of a defence is shown."""
DISCOUNTS = (0.25, 0.5, 1.0)
"""In units of σ."""
_IN_ONE_PASS = 256  # noisy images
_STRETCHES = (1.0, 1.1, 1.25, 1.5, 2.0)

Item = TypeVar("Item")
Outputs = dict[str, NDArray[Any]]


class Progress(Protocol):
    """Wraps an iterable of known length and description, to show how far it is."""

    def __call__(self, items: Iterable[Item], total: int, description: str) -> Iterable[Item]: ...


@dataclass(frozen=True)
class Settings:
    """How hard to attack."""

    top_k: int = 1
    """Success: the class is not among the k best."""
    epsilon: float = 4.0
    """Largest L2 distance of PGD and DDN."""
    steps: int = 20
    noise_samples: int = 100
    """n of (9): draws that a gradient of the smoothed classifier is averaged over."""
    votes: int = 1000
    """That decide whether the smoothed class changed."""
    spoof_epsilons: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    search: Search = field(default_factory=Search)
    defence_epsilon: float = 0.5
    defence_samples: tuple[int, ...] = (4, 16)
    """Noisy passes of the defences that make any."""
    confidence: float = 0.95
    """Of each upper bound."""
    seed: int = 0

    def check(self, *, classes: int) -> None:
        """Raises HeatserveError where a distance is not above 0, or `top_k` or `targets` not below the classes."""
        for name, value in (
            ("limit", self.epsilon),
            ("defence-epsilon", self.defence_epsilon),
            *(("epsilon", epsilon) for epsilon in self.spoof_epsilons),
        ):
            if not 0 < value < math.inf:
                raise HeatserveError(f"{name}: expected an L2 distance above 0, got {value:g}")
        for name, count in (("top-k", self.top_k), ("targets", self.search.targets)):
            if not 1 <= count < classes:
                raise HeatserveError(f"{name}: expected 1 to {classes - 1} for {classes} classes, got {count}")


@dataclass(frozen=True)
class Target:
    """A model version, opened twice: for gradients and for answers."""

    model: ModelVersion
    victim: Victim
    single_pass: nn.Module
    base: nn.Module
    serve: Callable[[Float32Array], Outputs]
    vote: Classifier
    monte_carlo: MonteCarlo
    """The reference of the calibration, which its promise speaks of, on float32 noise: attacked images have no grid."""


def open_target(model: ModelVersion, data: LabelledImages, *, seed: int) -> Target:
    """Open the graphs of a version for an attack on `data`.

    Raises:
        HeatserveError: images of another shape, a graph that torch answers otherwise than ONNX Runtime does.
        GraphError: an operator that has no gradient here.
    """
    as_taken(model, data)
    if model.card.input_type != "FP32":
        raise HeatserveError(f"{model.name}: expected a model of FP32 images: an attack moves them continuously")
    served, base = (onnx.load(model.path / name) for name in (GRAPH_NAME, BASE_NAME))
    calibration = model.card.calibration
    reference = calibration.monte_carlo if calibration else MonteCarlo(n0=100, n=1000, alpha=0.001, seed=seed)
    target = Target(
        model=model,
        victim=Victim(_with_slope(served, model), Logits(base), model.card.sigma),
        single_pass=Logits(served),
        base=Logits(base),
        serve=open_served(model),
        vote=classifier(open_session(model.path / BASE_NAME)),
        monte_carlo=reference.model_copy(update={"sampling": FLOAT32.sampling}),
    )
    _check_agreement(target, data.images[:64])
    return target


def _with_slope(served: onnx.ModelProto, model: ModelVersion) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Logits and served radius, a step function, which for gradients is the line through its steps."""
    graph = TorchGraph(served, ["logits", "certified_radius"])
    calibration = model.card.calibration
    if calibration is None or len(calibration.radius_map.radii) < 2:
        return graph
    radius_map = calibration.radius_map
    slope = float(np.polyfit(radius_map.thresholds, radius_map.radii, 1)[0])

    def sloped(x: Tensor) -> tuple[Tensor, ...]:
        logits, radius = graph(x)
        line = slope * _score(logits, radius_map)
        return logits, radius + (line - line.detach()).to(radius.dtype)

    return sloped


def _score(logits: Tensor, radius_map: RadiusMap) -> Tensor:
    """The score of a map, as `RadiusMap` computes it from probabilities; float64 [N]."""
    p = logits.double().softmax(1).sort(dim=1, descending=True).values
    tails = torch.stack([p[:, 1:].sum(1), p[:, 0], p[:, 1]], dim=1).clamp(1e-30, 0.5)
    w = -(2 * tails).log()[..., None]
    score: Tensor = (w / (w + torch.from_numpy(POLES)) * torch.tensor(radius_map.weights)).sum((1, 2))
    return score


def _check_agreement(target: Target, images: Float32Array) -> None:
    x, outputs = torch.from_numpy(images), target.serve(images)
    with torch.no_grad():
        logits, radius = target.victim.served(x)
        base = target.base(x).softmax(1).numpy()
    pairs = {
        "probabilities": (logits.softmax(1).numpy(), outputs["probabilities"]),
        "certified_radius": (radius.numpy() / target.victim.sigma, outputs["certified_radius"] / target.victim.sigma),
        "base classifier": (base, torch.from_numpy(target.vote(images)).softmax(1).numpy()),
    }
    for name, (found, expected) in pairs.items():
        off = np.abs(found - expected)  # a radius at the edge of a step may fall to either side of it
        worst = float(np.quantile(off, 0.9) if name == "certified_radius" else off.max())
        if not worst <= AGREEMENT:
            raise HeatserveError(
                f"{target.model.path}: {name}: expected torch within {AGREEMENT:g} of ONNX Runtime, got {worst:g}"
            )


def measure(
    target: Target, data: LabelledImages, thresholds: LabelledImages, settings: Settings, progress: Progress
) -> dict[str, Any]:
    """Everything that `heatserve attack` prints, for the images of `data`.

    `thresholds` are other images, which only the thresholds of the defences are taken from. A model that is not
    calibrated has no certificate to spoof: then `spoofing` and `defences` are None.
    """
    torch.manual_seed(settings.seed)  # foolbox draws a direction where a gradient vanishes
    proven = _certify(target, data.images, settings.seed, progress, "Certify, images as they are")
    outputs = target.serve(data.images)
    distances, inside = _distances(target, data, proven, outputs, settings, progress)
    results: dict[str, Any] = {
        "model": target.model.name,
        "graph_sha256": target.model.card.graph_sha256,
        "data": data.source(len(data.images)).model_dump(),
        "monte_carlo": target.monte_carlo.model_dump(),
        "settings": asdict(settings),
        "distances": distances,
        **inside,
        "spoofing": None,
        "defences": None,
    }
    if target.model.card.calibration is None:
        return results
    spoofed = {0.0: (data.images, proven)}
    for epsilon in sorted({*settings.spoof_epsilons, settings.defence_epsilon}):
        spoofed[epsilon] = _spoofed(target, data.images, epsilon, None, settings, progress, f"ε = {epsilon:g}")
    results["spoofing"] = [
        {"epsilon": epsilon, **_overclaims(target.serve(found), certified, settings)}
        for epsilon, (found, certified) in spoofed.items()
    ]
    unaware = spoofed[settings.defence_epsilon]
    results["defences"] = _defences(target, data, unaware, thresholds, settings, progress)
    return results


def card_part(results: dict[str, Any], data: LabelledImages) -> Attack:
    """What the card says about an attack with these results.

    Raises:
        HeatserveError: the model was not calibrated, so there was nothing to spoof.
    """
    if results["spoofing"] is None:
        raise HeatserveError(f"{results['model']}: not calibrated, so its card promises no radius to attack")
    return Attack(
        data=data.source(len(data.images)),
        monte_carlo=MonteCarlo(**results["monte_carlo"]),
        confidence=results["settings"]["confidence"],
        served_positive=results["within_served"]["positive"],
        changed_within_served=results["within_served"]["changed"],
        proven_tested=results["within_proven"]["tested"],
        changed_within_proven=results["within_proven"]["violations"],
        spoofed=tuple(
            Spoofed(
                epsilon=row["epsilon"],
                overclaim=OverclaimRate(**{name: row[name] for name in OverclaimRate.model_fields}),
                upper_bound_of_all=row["upper_bound_of_all"],
            )
            for row in results["spoofing"]
            if row["epsilon"] > 0
        ),
        date=now(),
    )


def _distances(
    target: Target,
    data: LabelledImages,
    proven: list[Certificate],
    outputs: Outputs,
    settings: Settings,
    progress: Progress,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of system and attack, and what happened within the served and the proven radii."""
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
            batches = _batches(data.images, classes, copies=copies)
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
    within_served = {
        "positive": int((radius > 0).sum()),
        "changed": int((nearest["single pass"][1] < radius).sum()),
    }
    within_proven = _within_proven(target, data.images, proven, [b for b, _ in nearest.values()], settings)
    return rows, {"within_served": within_served, "within_proven": within_proven}


def _row(system: str, attack: str, distance: Float64Array, right: NDArray[np.bool_], epsilon: float) -> dict[str, Any]:
    """Distances to another answer, and to misclassification: 0 where the answer is wrong to begin with."""
    misclassified = np.where(right, distance, 0.0)
    return {
        "system": system,
        "attack": attack,
        "changed": float(np.isfinite(distance).mean()),
        "median": _finite(np.median(distance)),
        "mean": float(np.minimum(distance, epsilon).mean()),
        "median_misclassified": _finite(np.median(misclassified)),
        "mean_misclassified": float(np.minimum(misclassified, epsilon).mean()),
        "distances": [_finite(d) for d in distance],
        "right": right.tolist(),
    }


def _within_proven(
    target: Target,
    images: Float32Array,
    proven: list[Certificate],
    attacked: Sequence[Float32Array],
    settings: Settings,
) -> dict[str, Any]:
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
    return {"tested": tested, "violations": violations, "majority_differs": majority, "votes": settings.votes}


def _judged(
    target: Target,
    system: str,
    images: Float32Array,
    found: Float32Array,
    classes: NDArray[np.int64],
    settings: Settings,
) -> tuple[Float32Array, Float64Array]:
    """Points that are confirmed to change the class, and their distances; inf where none is.

    An attack stops on the boundary, where a vote may go either way: what is not confirmed is tried again farther out.
    """
    points, distance = found.copy(), np.full(len(found), np.inf)
    for stretch in _STRETCHES:
        (left,) = np.nonzero(np.isinf(distance) & (_norm(found - images) > 0))
        if left.size:
            tried = np.clip(images[left] + np.float32(stretch) * (found - images)[left], 0, 1)
            away = _norm(tried - images[left])
            success = _changed(target, system, tried, classes[left], settings) & (away <= settings.epsilon * (1 + 1e-6))
            points[left[success]], distance[left[success]] = tried[success], away[success]
    return points, distance


def _changed(
    target: Target, system: str, images: Float32Array, classes: NDArray[np.int64], settings: Settings
) -> NDArray[np.bool_]:
    """Whether the class is no longer among the k best, by the served graph or by the majority of the votes."""
    if system == "single pass":
        scores = target.serve(images)["probabilities"]
    else:
        scores = np.stack(_votes(target, images, settings))
    best = np.argsort(-scores, axis=1, kind="stable")[:, : settings.top_k]
    return np.asarray((best != classes[:, None]).all(axis=1))


def _votes(target: Target, images: Float32Array, settings: Settings) -> list[NDArray[np.int64]]:
    """How often f answers each class [K], of `votes` noisy copies of each image."""
    noise = np.random.default_rng([settings.seed, 1])
    histograms = []
    for image in images:
        votes = np.zeros(len(target.model.card.class_names), np.int64)
        for start in range(0, settings.votes, _IN_ONE_PASS):
            copies = min(_IN_ONE_PASS, settings.votes - start)
            eta = noise.standard_normal((copies, *image.shape), dtype=np.float32)
            answers = target.vote(image + np.float32(target.victim.sigma) * eta).argmax(1)
            votes += np.bincount(answers, minlength=len(votes))
        histograms.append(votes)
    return histograms


def _spoofed(
    target: Target,
    images: Float32Array,
    epsilon: float,
    penalty: Penalty | None,
    settings: Settings,
    progress: Progress,
    description: str,
) -> tuple[Float32Array, list[Certificate]]:
    """The inputs that a search found, and what Certify proves at them, with noise that the search did not see."""
    noise = torch.Generator().manual_seed(settings.seed)
    batches = _batches(images, copies=settings.search.samples)
    found = np.concatenate(
        [
            spoof(target.victim, x, epsilon=epsilon, generator=noise, search=settings.search, penalty=penalty).numpy()
            for (x,) in progress(batches, len(batches), f"spoofing, {description}")
        ]
    )
    return found, _certify(target, found, settings.seed + 1, progress, f"Certify, {description}")


def _defences(
    target: Target,
    data: LabelledImages,
    unaware: tuple[Float32Array, list[Certificate]],
    thresholds: LabelledImages,
    settings: Settings,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Each defence: what it costs on clean images, and what it stops of an attack that does and does not know it."""
    right = target.serve(data.images)["label"] == data.labels
    held_out = torch.from_numpy(thresholds.images)
    found = checks(target.victim, held_out, samples=settings.defence_samples, seed=settings.seed)
    rows = []
    for defence in (None, *map(Discount, DISCOUNTS), *found):
        aware = unaware
        if isinstance(defence, Check):
            epsilon, penalty = settings.defence_epsilon, defence.penalty
            aware = _spoofed(target, data.images, epsilon, penalty, settings, progress, defence.name)
        radius = _defended(target, data.images, defence)["certified_radius"]
        rows.append(
            {
                "name": defence.name if defence else "none",
                "passes": defence.passes if isinstance(defence, Check) else 0,
                "threshold": defence.threshold if isinstance(defence, Check) else None,
                "epsilon": settings.defence_epsilon,
                "certified_at": CERTIFIED_AT,
                "certified_accuracy": certified_accuracy(right, radius.astype(np.float64), CERTIFIED_AT),
                "unaware": _overclaims(_defended(target, unaware[0], defence), unaware[1], settings),
                "adaptive": _overclaims(_defended(target, aware[0], defence), aware[1], settings),
            }
        )
    return rows


def _defended(target: Target, images: Float32Array, defence: Check | Discount | None) -> Outputs:
    """The served outputs, with the radii that a defence leaves."""
    outputs = target.serve(images)
    radius = outputs["certified_radius"]
    if isinstance(defence, Discount):
        radius = np.maximum(radius - np.float32(defence.sigmas * target.victim.sigma), 0)
    if isinstance(defence, Check):
        batches = _batches(images, outputs["label"], copies=max(1, int(defence.passes)))
        radius = np.where(torch.cat([defence.keeps(x, labels) for x, labels in batches]).numpy(), radius, 0)
    return {**outputs, "certified_radius": radius}


def _certify(
    target: Target, images: Float32Array, seed: int, progress: Progress, description: str
) -> list[Certificate]:
    reference = target.monte_carlo
    certificates = certify(
        target.vote,
        images,
        sigma=target.victim.sigma,
        n0=reference.n0,
        n=reference.n,
        alpha=reference.alpha,
        seed=seed,
        batch_size=_IN_ONE_PASS,
    )
    return list(progress(certificates, len(images), description))


def _overclaims(outputs: Outputs, proven: list[Certificate], settings: Settings) -> dict[str, Any]:
    """Overclaims as the card counts them, with exact upper bounds given a positive radius and over all answers."""
    radius = outputs["certified_radius"]
    limit = np.array([certificate.radius for certificate in proven])
    labels = np.array([certificate.label for certificate in proven])
    agrees = (labels == outputs["label"]) & (labels != ABSTAIN)
    delta, positive = 1 - settings.confidence, radius > 0
    seen = count_overclaims(Reference(outputs["probabilities"], agrees, limit), radius, delta=delta)
    return {
        "images": seen.images,
        "positive": seen.positive,
        "overclaims": seen.count,
        "upper_bound": seen.upper_bound,
        "upper_bound_of_all": float(upper_bound(seen.count, seen.images, alpha=delta)),
        "median_served": _finite(np.median(radius[positive])) if positive.any() else None,
        "median_proven": _finite(np.median(limit[positive])) if positive.any() else None,
    }


def _batches(*arrays: NDArray[Any], copies: int) -> list[list[Tensor]]:
    """The arrays in parts so small that `copies` noisy copies of each image fit in one pass."""
    size = max(1, _IN_ONE_PASS // copies)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    return [[tensor[start : start + size] for tensor in tensors] for start in range(0, len(tensors[0]), size)]


def _norm(displacement: Float32Array) -> Float64Array:
    return np.asarray(np.linalg.norm(displacement.reshape(len(displacement), -1).astype(np.float64), axis=1))


def _finite(value: float | np.floating[Any]) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None
