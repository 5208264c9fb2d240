"""What one system answers to the test images: in one pass, confirmed, and by noisy passes; a row of `SystemsRecord`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from heatserve.benchmarks.confirming import replay
from heatserve.benchmarks.paper.calibrating import Calibrations
from heatserve.benchmarks.paper.passes import ImagePasses, PassKeeper
from heatserve.benchmarks.records.paper import ConfirmedRadius, NoisyPasses, PassTimes, SinglePasses, SystemSettings
from heatserve.certification.binomial import lower_bound
from heatserve.certification.confirming import confirmation, threshold
from heatserve.certification.monte_carlo import alpha_left, certificate_of
from heatserve.certification.noise import source_of
from heatserve.certification.outcome import Ending
from heatserve.certification.progress import Progress
from heatserve.certification.radius import Float64Array, l_bound
from heatserve.export.calibration.calibrate import figures_certifier
from heatserve.export.card import BASE_NAME
from heatserve.export.contract import Outputs
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import ModelImages, answers
from heatserve.export.runtime.served import open_served
from heatserve.export.runtime.timing import interleave, quantiles

CONFIRMED_SIGMAS = (0.5, 1.0, 2.0)
"""The radii that confirm is asked about, in σ."""
_ROUNDS = 10
_QUICKEST = 0.05
"""The share of the images whose noisy passes took least."""


def single_passes(model: ModelVersion, outputs: Outputs, data: ModelImages, *, top_k: int) -> SinglePasses:
    """What one pass answers to `data`; `outputs` are what the model serves."""
    bound = outputs["nominal_radius"]
    if not model.card.is_deterministic:
        bound = l_bound(outputs["probabilities"], sigma=model.card.sigma, rank=top_k)
    return SinglePasses(
        images=data.source(len(data)),
        truth=tuple(data.labels.tolist()),
        label=tuple(outputs["label"].tolist()),
        right=_booleans(among_best(outputs["probabilities"], data.labels, k=top_k)),
        l_bound=_numbers(bound),
        nominal=_numbers(outputs["nominal_radius"]),
        served=_numbers(outputs["certified_radius"]),
    )


def noisy_passes(
    model: ModelVersion,
    outputs: Outputs,
    data: ModelImages,
    settings: SystemSettings,
    *,
    calibrations: Calibrations,
    keeper: PassKeeper,
    progress: Progress,
) -> tuple[NoisyPasses, tuple[ConfirmedRadius, ...], float]:
    """What noisy passes say about `data`, what confirm answers, and milliseconds of a pass.

    These are of the images that took least: hours of passes see others at work on the machine, which only adds.

    Args:
        model: its base classifier is asked.
        outputs: what one pass answers to the same images.
        data: M test images.
        settings: α of confirm and k; Certify is that of the calibrations' figures.
        calibrations: whose images and Certify these are.
        keeper: takes the passes, or has them.
        progress: shows the images.
    """
    recipe = figures_certifier(calibrations.certifier).recipe(model, data)
    base = (model.path / BASE_NAME).read_bytes()
    taken = keeper.passes(base, data, list(range(len(data))), recipe)
    found = list(progress(taken, len(data), f"{model.name}: {recipe.n0 + recipe.n} noisy passes"))
    left = partial(
        alpha_left,
        shape=data.images.shape[1:],
        votes=recipe.n0 + recipe.n,
        sigma=recipe.sigma,
        noise=source_of(recipe.sampling),
    )
    prove = partial(certificate_of, sigma=recipe.sigma, n=recipe.n, alpha=left(recipe.alpha))
    counts = [one.counts(recipe.n0) for one in found]
    averages = np.stack([one.average for one in found])
    certified = [prove(*pair, top_k=1) for pair in counts]
    of_k = [prove(*pair, top_k=settings.top_k) for pair in counts]
    named = np.argsort(-outputs["probabilities"], axis=1, kind="stable")[:, : settings.top_k]
    passes = NoisyPasses(
        proven_label=tuple(one.label for one in certified),
        proven_radius=_numbers([one.radius for one in certified]),
        top_k_radius=_numbers([one.radius for one in of_k]),
        top_k_right=tuple(
            one.radius > 0 and int(truth) in one.classes for one, truth in zip(of_k, data.labels, strict=True)
        ),
        named_radius=_numbers(_named(counts, named, recipe.n, sigma=recipe.sigma, alpha=left(recipe.alpha))),
        vote_label=tuple(int((first + rest).argmax()) for first, rest in counts),
        average_label=tuple(averages.argmax(1).tolist()),
        average_right=_booleans(among_best(averages, data.labels, k=settings.top_k)),
        average_l_bound=_numbers(l_bound(averages, sigma=recipe.sigma, rank=settings.top_k)),
    )
    confirm = partial(_confirmed, outputs, found, n=recipe.n, sigma=recipe.sigma, alpha=left(settings.confirm_alpha))
    confirmed = tuple(confirm(share * recipe.sigma) for share in CONFIRMED_SIGMAS)
    seconds = float(np.quantile([one.seconds for one in found], _QUICKEST))
    return passes, confirmed, 1000 * seconds / (recipe.n0 + recipe.n)


def pass_times(model: ModelVersion, data: ModelImages, *, seed: int, noisy_pass: float | None) -> PassTimes:
    """The median time of one image alone, beside what a noisy pass took."""
    runner = open_served(model)
    times = interleave({"one": partial(answers, runner, data[:1])}, rounds=_ROUNDS, seed=seed)
    one, noisy = quantiles(times["one"])["p50"], noisy_pass
    return PassTimes(one_pass=round(one, 4), noisy_pass=None if noisy is None else round(noisy, 6))


def among_best(scores: NDArray[Any], labels: NDArray[np.int64], *, k: int) -> NDArray[np.bool_]:
    """Whether each label [N] is among the k best of its scores [N, K]; of equal ones the smaller class is better."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.asarray((best == labels[:, None]).any(1))


def _named(
    counts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    classes: NDArray[np.int64],
    n: int,
    *,
    sigma: float,
    alpha: float,
) -> Float64Array:
    """σ·Φ⁻¹ of the bound that n votes give on the probability of some classes [M, k], [M]; 0 where it is at most ½."""
    votes = np.array([after[of].sum() for (_, after), of in zip(counts, classes, strict=True)])
    p_lower = lower_bound(votes, n, alpha=alpha)
    return np.where(p_lower > 0.5, sigma * ndtri(np.maximum(p_lower, 0.5)), 0.0)


def _confirmed(
    outputs: Mapping[str, NDArray[Any]],
    found: Sequence[ImagePasses],
    radius: float,
    *,
    n: int,
    sigma: float,
    alpha: float,
) -> ConfirmedRadius:
    p, said = threshold(radius, sigma=sigma), []
    for label, one in zip(outputs["label"], found, strict=True):
        test = confirmation(label=int(label), p=p, n=n, alpha=alpha)
        said.append(replay(test, one.votes.astype(np.int64), classes=len(one.average)))
    return ConfirmedRadius(
        radius=round(radius, 6),
        proven=tuple(one.reason is Ending.PROVEN for one in said),
        votes=tuple(one.votes for one in said),
    )


def _numbers(values: Any) -> tuple[float, ...]:
    """To six digits."""
    return tuple(float(f"{value:.6g}") for value in np.asarray(values, np.float64).tolist())


def _booleans(values: NDArray[np.bool_]) -> tuple[bool, ...]:
    return tuple(values.tolist())
