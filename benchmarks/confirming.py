"""What a confirmation costs: images confirmed at each radius and α, and the votes that it took, rule by rule.

The votes for an image are drawn once, and each question, a radius with an α and a rule, is asked of them from the first
one on. Each row is a claim of its own, as if nothing else had been asked; no claim is about two rows at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from heatserve.benchmarks.records.confirming import ConfirmedModel, ConfirmedRow, VoteCounts
from heatserve.certification.confirming import PLAIN, RULE, Confirmation, Rule, confirmation, threshold
from heatserve.certification.monte_carlo import alpha_left
from heatserve.certification.noise import FLOAT32, GRID, NoiseSource
from heatserve.certification.outcome import Ending
from heatserve.certification.polls import Test
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.voting import Classifier, histograms, streams
from heatserve.export.card import BASE_NAME
from heatserve.export.images import SampledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import ModelImages, answers, model_images
from heatserve.export.runtime.served import open_served
from heatserve.export.runtime.session import classifier, open_session

CONFIRMED_RADII = (0.0625, 0.125, 0.25)
"""r (L2, pixels in [0,1])."""
CONFIRMED_ALPHAS = (1e-3, 1e-4, 1e-6)
_LOOKS = replace(PLAIN, step=RULE.step, is_eager=RULE.is_eager)
CONFIRMED_RULES: Mapping[str, Rule] = MappingProxyType({"plain": PLAIN, "+ early looks": _LOOKS, "+ giving up": RULE})
"""Each adds something to the one before; the last is `RULE`."""
CONFIRM_TOTALS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Numbers of votes by which confirmed images are counted."""


def measure_confirmations(
    model: ModelVersion, data: SampledImages, *, n: int, seed: int, progress: Progress = unseen
) -> ConfirmedModel:
    """Ask every question about every image.

    Args:
        model: whose base classifier votes, and whose single pass names the class.
        data: test images. Votes are taken with sound noise where all of them are of 8 bits, else in float32.
        n: most votes for an image.
        seed: decides the noise. It is known here: the images were not chosen by somebody who knew it.
        progress: shows the images.
    """
    inputs = model_images(model, data)
    noise = GRID if all(GRID.suits(image) for image in inputs.images) else FLOAT32
    base = classifier(open_session(model.path / BASE_NAME))
    sigma = model.card.sigma
    drawn = draw_votes(base, inputs, n=n, sigma=sigma, seed=seed, noise=noise)
    votes = np.stack(list(progress(drawn, len(inputs), f"{model.name}: {n} votes")))
    outputs = answers(open_served(model), inputs)
    labels, radii = outputs["label"], outputs["certified_radius"]
    rows = []
    for radius in CONFIRMED_RADII:
        for alpha in CONFIRMED_ALPHAS:
            left = alpha_left(alpha, shape=inputs.images.shape[1:], votes=n, sigma=sigma, noise=noise)
            for name, rule in CONFIRMED_RULES.items():
                found = [
                    replay(
                        confirmation(
                            label=int(label),
                            p=threshold(radius, sigma=sigma),
                            n=n,
                            alpha=left,
                            rule=rule,
                        ),
                        row,
                        classes=outputs["probabilities"].shape[1],
                    )
                    for label, row in zip(labels, votes, strict=True)
                ]
                rows.append(_row(radius, alpha, name, found, right=labels == inputs.labels, served=radii >= radius))
    return ConfirmedModel(
        base_sha256=model.card.base_sha256,
        data=data.source(len(inputs)),
        sigma=sigma,
        sampling=noise.key,
        rows=tuple(rows),
    )


def draw_votes(
    base: Classifier, data: ModelImages, *, n: int, sigma: float, seed: int, noise: NoiseSource
) -> Iterator[NDArray[np.int64]]:
    """For each image, the classes that its n votes are for, in order, [n]; −1: a vote for no class."""
    fills = streams(data.images, indices=None, sigma=sigma, seed=seed, noise=noise)
    single = ((fill, 1) for fill in fills for _ in range(n))
    counts = histograms(base, single, shape=data.images.shape[1:], batch_size=512)
    for first in counts:
        rest = (next(counts) for _ in range(n - 1))
        yield np.array([int(one.argmax()) if one.any() else -1 for one in (first, *rest)])


def replay(test: Test[Confirmation], votes: NDArray[np.int64], *, classes: int) -> Confirmation:
    """What a test finds on votes that are there already, [n] classes."""
    taken = 0
    try:
        want = next(test)
        while True:
            part = votes[taken : taken + want.votes]
            taken += want.votes
            want = test.send(np.bincount(part[part >= 0], minlength=classes))
    except StopIteration as stop:
        found: Confirmation = stop.value
        return found


def _row(
    radius: float,
    alpha: float,
    rule: str,
    found: Sequence[Confirmation],
    *,
    right: NDArray[np.bool_],
    served: NDArray[np.bool_],
) -> ConfirmedRow:
    reasons = np.array([one.reason.value for one in found])
    votes = np.array([one.votes for one in found])
    confirmed = reasons == Ending.PROVEN.value
    return ConfirmedRow(
        radius=radius,
        alpha=alpha,
        rule=rule,
        confirmed=int(confirmed.sum()),
        right=int((confirmed & right).sum()),
        disproven=int((reasons == Ending.DISPROVEN.value).sum()),
        hopeless=int((reasons == Ending.HOPELESS.value).sum()),
        undecided=int((reasons == Ending.VOTES.value).sum()),
        votes=_counts(votes),
        served=int(served.sum()),
        served_confirmed=int((served & confirmed).sum()),
        served_votes=_counts(votes[served]) if served.any() else None,
        confirmed_within=tuple(int((confirmed & (votes <= total)).sum()) for total in CONFIRM_TOTALS),
    )


def _counts(votes: NDArray[np.int64]) -> VoteCounts:
    return VoteCounts(
        median=float(np.median(votes)), mean=float(votes.mean()), p99=float(np.quantile(votes, 0.99, method="higher"))
    )
