"""What is attacked, opened for gradients and for answers.

Searches differentiate the very graphs of the repository; what is found is judged by those graphs in ONNX Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heatserve.benchmarks.attack.differentiable import Logits, TorchGraph
from heatserve.benchmarks.attack.spoofing import Victim
from heatserve.certification.errors import HeatserveError
from heatserve.certification.monte_carlo import Certificate, certify
from heatserve.certification.noise import FLOAT32
from heatserve.certification.progress import Progress
from heatserve.certification.quantile import POLES
from heatserve.certification.radius import Float32Array, RadiusMap
from heatserve.certification.voting import Classifier
from heatserve.export.card import BASE_NAME, GRAPH_NAME
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.contract import Outputs
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.repository.smoothed import SmoothedWork, require_smoothed
from heatserve.export.runtime.answers import check_images
from heatserve.export.runtime.served import open_served
from heatserve.export.runtime.session import classifier, open_session

AGREEMENT = 1e-4
"""The most that torch and ONNX Runtime may differ, in a probability and in a radius / σ."""
IN_ONE_PASS = 256
"""Noisy images that go through a network at a time."""


@dataclass(frozen=True)
class Target:
    """A model version, opened twice: in torch for gradients, in ONNX Runtime for answers."""

    model: ModelVersion
    victim: Victim
    single_pass: nn.Module
    base: nn.Module
    serve: Callable[[Float32Array], Outputs]
    vote: Classifier
    monte_carlo: MonteCarlo
    """Certify with the numbers of the calibration, on float32 noise: attacked images have no grid."""


def open_target(model: ModelVersion, data: LabelledImages, *, seed: int) -> Target:
    """Open the graphs of a version for an attack on `data`.

    Raises:
        HeatserveError: images of another shape, a variant that takes UINT8 or has another precision, or a graph that
            torch answers otherwise than ONNX Runtime does.
        GraphError: an operator that has no gradient here.
    """
    require_smoothed(model, SmoothedWork.ATTACK)
    check_images(model, data)
    if (model.card.input_type, model.card.precision) != ("FP32", "fp32"):
        raise HeatserveError(
            f"{model.name}: expected a model of FP32 images with an fp32 network, since an attack moves images "
            f"continuously and follows gradients, got {model.card.input_type} and {model.card.precision}; attack the "
            "model that it is a variant of"
        )
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
        monte_carlo=reference.model_copy(update={"sampling": FLOAT32.key, "decides": None}),
    )
    _check_agreement(target, data.images[:64])
    return target


def _with_slope(served: onnx.ModelProto, model: ModelVersion) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Logits and served radius. The radius is a step function; its gradient is that of the line through its steps."""
    graph = TorchGraph(served, ["logits", "certified_radius"])
    calibration = model.card.calibration
    if calibration is None:
        return graph
    radius_map = calibration.radius_map
    one = len(radius_map.radii) == 1
    slope = radius_map.radii[0] if one else float(np.polyfit(radius_map.thresholds, radius_map.radii, 1)[0])

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


def prove(target: Target, images: Float32Array, seed: int, progress: Progress, description: str) -> list[Certificate]:
    """What Certify proves at each image, on votes of the base classifier."""
    reference = target.monte_carlo
    certificates = certify(
        target.vote,
        images,
        sigma=target.victim.sigma,
        n0=reference.n0,
        n=reference.n,
        alpha=reference.alpha,
        seed=seed,
        batch_size=IN_ONE_PASS,
    )
    return list(progress(certificates, len(images), description))


def tensor_batches(*arrays: NDArray[Any], copies: int) -> list[list[Tensor]]:
    """The arrays in parts so small that `copies` noisy copies of each image fit in one pass."""
    size = max(1, IN_ONE_PASS // copies)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    return [[tensor[start : start + size] for tensor in tensors] for start in range(0, len(tensors[0]), size)]


def finite(value: float | np.floating[Any]) -> float | None:
    """A number for JSON, to five digits; None for one that is not finite."""
    return round(float(value), 5) if math.isfinite(value) else None
