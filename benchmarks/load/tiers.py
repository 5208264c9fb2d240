"""What each tier of a served model proves, in how many passes and how long, asked of the real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatserve.benchmarks.load.helper import Helper
from heatserve.benchmarks.load.messages import LoadRequest
from heatserve.benchmarks.load.setting import ServedModels, Setting, running
from heatserve.benchmarks.load.targets import only
from heatserve.benchmarks.load.windows import LoadGenerator, LoadPart
from heatserve.benchmarks.records.load import Heard
from heatserve.benchmarks.records.tiers import PassCount, RadiusRow, TieredModel, TierRow
from heatserve.certification.errors import HeatserveError
from heatserve.certification.progress import Progress, unseen
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.tiers import Tier, TierModel
from heatserve.serving.client.client import Client
from heatserve.serving.client.tier_answers import TierAnswer

RADII = (0.125, 0.25, 0.5)
"""What is asked, L2 on pixels in [0,1]."""
CASCADE = TierModel.CASCADE.value
"""Confirm what is claimed."""
_ASKED_AT_ONCE = 8
"""Images of one request to a tier; more would pass its deadline before their turn."""
_DEADLINE, _TIMEOUT = 60.0, 90.0
"""Seconds of a request, on the server and for the client: nothing is to be undecided for want of time."""
_CALLERS = (4, 8, 16, 32)
"""Callers among which the most images a second are searched."""


@dataclass(frozen=True)
class Claims:
    """What a tier said of N images about one radius."""

    labels: NDArray[np.int64]
    claimed: NDArray[np.bool_]
    passes: NDArray[np.int64]
    alpha: float | None


def measure_tiers(
    served: ServedModels,
    model: ModelVersion,
    data: LabelledImages,
    *,
    seconds: float,
    generators: int,
    seed: int,
    progress: Progress = unseen,
) -> TieredModel:
    """Ask every tier about every image, and then measure how fast it answers.

    Args:
        served: the model with its tiers.
        model: the same.
        data: test images with their classes.
        seconds: the length of each window of load.
        generators: processes that ask.
        seed: of the load generator; the noise of the tiers is fresh.
        progress: follows the images of each tier.

    Raises:
        HeatserveError: the model lacks a tier.
        ServingError: the server refused a request.
    """
    missing = [kind.value for kind in _NEEDED if kind not in served.tiers]
    if missing:
        raise HeatserveError(f"{model.name}: expected the tiers {', '.join(_NEEDED)}, found no {', '.join(missing)}")
    with ExitStack() as stack:
        helpers = [stack.enter_context(Helper()) for _ in range(generators)]
        setting = stack.enter_context(running(served))
        client = stack.enter_context(Client(setting.urls["grpc"], model=model.name, timeout=_TIMEOUT))
        said = {tier: _said(tier, client, data, progress) for tier in _QUESTIONS}
        generator = LoadGenerator(helpers, setting, seed=seed)
        rows = {
            tier: _row(found, data.labels, _speed(setting, generator, tier, seconds)) for tier, found in said.items()
        }
    return TieredModel(
        graph_sha256=model.card.graph_sha256, sigma=model.card.sigma, data=data.source(len(data)), tiers=rows
    )


def _said(tier: str, client: Client, data: LabelledImages, progress: Progress) -> list[Claims]:
    """What a tier says at each radius."""
    starts = range(0, len(data), _ASKED_AT_ONCE)
    by_radius: list[list[Claims]] = [[] for _ in RADII]
    for start in progress(starts, len(starts), f"{tier}, images by {_ASKED_AT_ONCE}"):
        images = data.images[start : start + _ASKED_AT_ONCE]
        for found, claims in zip(by_radius, _QUESTIONS[tier](client, images), strict=True):
            found.append(claims)
    return [_joined(found) for found in by_radius]


def _ask_once(client: Client, images: NDArray[np.float32]) -> Iterator[Claims]:
    answers = client.predict(images)
    labels = np.array([answer.label for answer in answers])
    radii = np.array([answer.certified_radius for answer in answers])
    for radius in RADII:
        yield Claims(labels, radii >= radius, np.ones(len(images), np.int64), None)


def _ask_cascade(client: Client, images: NDArray[np.float32]) -> Iterator[Claims]:
    for radius in RADII:
        yield _claims(client.cascade(images, radius=radius, deadline=_DEADLINE), radius, single=1)


def _ask_confirm(client: Client, images: NDArray[np.float32]) -> Iterator[Claims]:
    for radius in RADII:
        yield _claims(client.confirm(images, radius=radius, deadline=_DEADLINE), radius, single=1)


def _ask_certify(client: Client, images: NDArray[np.float32]) -> Iterator[Claims]:
    answers = client.certify_fixed(images, deadline=_DEADLINE)
    for radius in RADII:
        yield _claims(answers, radius, single=0)


_NEEDED = (TierModel.CASCADE, TierModel.CONFIRM, TierModel.CERTIFY)
_QUESTIONS: Mapping[str, Callable[[Client, NDArray[np.float32]], Iterator[Claims]]] = {
    Tier.ONE_PASS.value: _ask_once,
    CASCADE: _ask_cascade,
    Tier.CONFIRM.value: _ask_confirm,
    Tier.CERTIFY.value: _ask_certify,
}


def _claims(answers: Sequence[TierAnswer], radius: float, *, single: int) -> Claims:
    """Answers of a tier that makes `single` passes besides its votes."""
    return Claims(
        np.array([answer.label for answer in answers]),
        np.array([bool(answer) and answer.proven_radius >= radius for answer in answers]),
        np.array([single + answer.votes for answer in answers]),
        max(answer.alpha for answer in answers),
    )


def _joined(parts: Sequence[Claims]) -> Claims:
    alphas = [part.alpha for part in parts if part.alpha is not None]
    labels, claimed, passes = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "claimed", "passes")
    )
    return Claims(labels, claimed, passes, max(alphas, default=None))


def _speed(setting: Setting, generator: LoadGenerator, tier: str, seconds: float) -> tuple[Heard, Heard]:
    """One caller, and the callers that were answered the most."""
    served = setting.served
    request = served.one_pass("grpc") if tier == Tier.ONE_PASS.value else _request(served, TierModel(tier))
    loads = [(LoadPart(request, callers=callers),) for callers in (1, *_CALLERS)]
    single, *others = (only(generator.row(load, seconds)) for load in loads)
    return single, max(others, key=lambda one: one.images_per_second)


def _request(served: ServedModels, kind: TierModel) -> LoadRequest:
    return served.tier(kind, "grpc", RADII[0])


def _row(said: Sequence[Claims], labels: NDArray[np.int64], speed: tuple[Heard, Heard]) -> TierRow:
    at = tuple(radius_row(radius, claims, labels) for radius, claims in zip(RADII, said, strict=True))
    alphas = [claims.alpha for claims in said if claims.alpha is not None]
    return TierRow(alpha=max(alphas, default=None), at=at, single=speed[0], saturated=speed[1])


def radius_row(radius: float, claims: Claims, labels: NDArray[np.int64]) -> RadiusRow:
    """Shares and passes of what a tier said of images with these classes [N]."""
    passes = claims.passes
    return RadiusRow(
        radius=radius,
        claimed=float(claims.claimed.mean()),
        certified_accuracy=float((claims.claimed & (claims.labels == labels)).mean()),
        passes=PassCount(
            median=float(np.median(passes)), mean=float(passes.mean()), p99=float(np.percentile(passes, 99))
        ),
        claimed_passes=float(passes[claims.claimed].mean()) if claims.claimed.any() else None,
    )
