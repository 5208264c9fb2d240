"""The tiers under attack: what each answers at inputs that an adversary searched for, and what is true there.

The claim that is tested: where the clean image is certifiable at r, an adversary within r can make the system abstain,
but never confirm another class (but for α).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from heatserve.benchmarks.attack.known_seed import show_known_seed
from heatserve.benchmarks.attack.settings import TierAttackSettings
from heatserve.benchmarks.attack.target import IN_ONE_PASS, Target, tensor_batches
from heatserve.benchmarks.attack.tier_answers import (
    TIERS,
    Answered,
    OnePass,
    ask_confirm,
    ask_tiers,
    ask_what_is_served,
    is_yes,
    one_pass,
)
from heatserve.benchmarks.attack.tier_searches import abstention, another_class, overclaim, spoofed
from heatserve.benchmarks.records.attack_tiers import (
    AskedOften,
    HonestCost,
    SpoofedRadii,
    TierAttackRecord,
    TierAttackRow,
    TierTotal,
    WithinEpsilon,
)
from heatserve.benchmarks.records.record import made_now
from heatserve.certification.binomial import upper_bound
from heatserve.certification.confirming import Confirmation, threshold
from heatserve.certification.monte_carlo import certify
from heatserve.certification.noise import GRID, LEVELS
from heatserve.certification.outcome import Outcome
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.images import LabelledImages

_SPOOFING, _OVERCLAIM, _ANOTHER, _ABSTENTION = "spoofing", "overclaim", "another class", "abstention"
_NEAREST = 5
"""Inputs that are asked often, for each radius."""


def as_pictures(data: LabelledImages) -> LabelledImages:
    """The images with pixels rounded to 8 bits, as a picture file has them."""
    levels = np.rint(data.images.astype(np.float64) * LEVELS)
    return replace(data, images=(levels / np.float32(LEVELS)).astype(np.float32))


def attack_all_tiers(
    target: Target, data: LabelledImages, settings: TierAttackSettings, progress: Progress = unseen
) -> TierAttackRecord:
    """Search for inputs near the images of `data`, ask every tier about them, and count what is false.

    Args:
        target: the model.
        data: images of 8 bits, see `as_pictures`.
        settings: how hard to attack, and what is asked.
        progress: shows each search, and the questions about what it found.
    """
    clean = _ask_clean(target, data.images, settings, progress)
    tries = _plan(settings, target.victim.sigma)
    found = [_search(one, target, clean, settings, progress) for one in tries]
    both = list(zip(tries, found, strict=True))
    asked = [
        (one, ask_tiers(target, images, radii=one.radii, settings=settings))
        for one, images in progress(both, len(both), "questions to the tiers")
    ]
    spoofing = [(one.epsilon, images) for one, images in both if one.search == _SPOOFING]
    rows = tuple(row for one, answers in asked for row in _rows(one, clean, answers))
    return TierAttackRecord(
        **vars(made_now(seed=settings.seed)),
        model=target.model.name,
        graph_sha256=target.model.card.graph_sha256,
        data=data.source(len(data)),
        monte_carlo=clean.monte_carlo,
        settings=settings,
        honest=tuple(_honest(clean, radius) for radius in clean.confirmations),
        spoofed=tuple(
            _spoofed_radii(target, epsilon, images, settings)
            for epsilon, images in progress(spoofing, len(spoofing), "questions about served radii")
        ),
        within=tuple(
            _within(epsilon, radius, clean, asked)
            for epsilon in settings.epsilons
            for radius in settings.asked_within(epsilon, sigma=target.victim.sigma)
        ),
        rows=rows,
        totals={tier: _total(tier, [answers for _, answers in asked], rows, settings) for tier in TIERS},
        asked_often=tuple(
            _ask_often(target, [answers for _, answers in asked], radius, settings)
            for radius in progress(settings.radii, len(settings.radii), "repeated questions")
        ),
        known_seed=show_known_seed(seed=settings.seed),
    )


@dataclass(frozen=True)
class _Try:
    """One search near all images, and what is asked at what it finds."""

    search: str
    epsilon: float
    radii: tuple[float, ...]


def _plan(settings: TierAttackSettings, sigma: float) -> list[_Try]:
    """Every search. One for an overclaim aims at one radius; one for an abstention makes sense within the radius."""
    plan = []
    for epsilon in settings.epsilons:
        radii = settings.asked_within(epsilon, sigma=sigma)
        plan += [_Try(_SPOOFING, epsilon, radii), *(_Try(_OVERCLAIM, epsilon, (radius,)) for radius in settings.radii)]
        plan += [_Try(_ANOTHER, epsilon, radii), _Try(_ABSTENTION, epsilon, tuple(r for r in radii if epsilon <= r))]
    return [one for one in plan if one.radii]


def _search(one: _Try, target: Target, clean: _Clean, settings: TierAttackSettings, progress: Progress) -> Float32Array:
    """The inputs that one search found within ε of each clean image, [N, C, H, W]."""
    generator = torch.Generator().manual_seed(settings.seed)
    batches = tensor_batches(clean.images, clean.classes, copies=settings.search.samples)
    aimed = f", r = {one.radii[0]:g}" if one.search == _OVERCLAIM else ""
    found = []
    for x, classes in progress(batches, len(batches), f"{one.search}, ε = {one.epsilon:g}{aimed}"):
        search = {
            _SPOOFING: partial(spoofed, target.victim, x),
            _OVERCLAIM: partial(overclaim, target.victim, x, radius=one.radii[0]),
            _ANOTHER: partial(another_class, target.victim, x, classes),
            _ABSTENTION: partial(abstention, target.victim, x, classes),
        }[one.search]
        found.append(search(epsilon=one.epsilon, generator=generator, search=settings.search).numpy())
    return np.concatenate(found)


@dataclass(frozen=True)
class _Clean:
    """The images as they are, and what is known and answered there."""

    images: Float32Array
    monte_carlo: MonteCarlo
    classes: NDArray[np.int64]
    """With the most votes, [N]: those that Certify names where it does not abstain."""
    proven: Float64Array
    """By Certify, [N]."""
    served: OnePass
    confirmations: Mapping[float, Sequence[Confirmation]]
    """By radius."""

    def promised(self, epsilon: float, radius: float) -> NDArray[np.bool_]:
        """Images of which every input within ε is nearer than r, where r is proven, [N]."""
        return (self.proven >= radius) & (epsilon <= radius)


def _ask_clean(target: Target, images: Float32Array, settings: TierAttackSettings, progress: Progress) -> _Clean:
    sigma = target.victim.sigma
    reference = target.monte_carlo.model_copy(update={"sampling": GRID.key, "seed": settings.seed})
    certificates = certify(
        target.vote,
        images,
        sigma=sigma,
        n0=reference.n0,
        n=reference.n,
        alpha=reference.alpha,
        seed=reference.seed,
        noise=GRID,
        batch_size=IN_ONE_PASS,
    )
    proven = list(progress(certificates, len(images), "Certify, images as they are"))
    served = one_pass(target, images)
    radii = sorted({radius for epsilon in settings.epsilons for radius in settings.asked_within(epsilon, sigma=sigma)})
    return _Clean(
        images,
        reference,
        np.array([certificate.guess for certificate in proven]),
        np.array([certificate.radius for certificate in proven]),
        served,
        {
            radius: ask_confirm(target, images, served.labels, radius=radius, alpha=settings.alpha, n=settings.n)
            for radius in progress(radii, len(radii), "confirm, images as they are")
        },
    )


def _honest(clean: _Clean, radius: float) -> HonestCost:
    proven = (clean.proven >= radius) & (clean.classes == clean.served.labels)
    confirmed, claimed = is_yes(clean.confirmations[radius]), clean.served.claims(radius)
    votes = np.array([answer.votes for answer in clean.confirmations[radius]])
    return HonestCost(
        radius=radius,
        images=len(clean.images),
        proven=int(proven.sum()),
        confirmed=int(confirmed.sum()),
        confirmed_of_proven=int((confirmed & proven).sum()),
        claimed=int(claimed.sum()),
        claimed_of_proven=int((claimed & proven).sum()),
        cascaded=int((confirmed & claimed).sum()),
        cascaded_of_proven=int((confirmed & claimed & proven).sum()),
        median_votes=float(np.median(votes)),
        mean_votes=float(votes.mean()),
        mean_votes_cascade=float((votes * claimed).mean()),
    )


def _rows(one: _Try, clean: _Clean, asked: Answered) -> Iterator[TierAttackRow]:
    """What the tiers said at what a search found, a row for each radius."""
    for r, radius in enumerate(asked.radii):
        false = asked.said["one pass"][r].overclaims
        outcomes = np.array([answer.outcome for answer in asked.confirmations[r]], dtype=object)
        promised = clean.promised(one.epsilon, radius)
        yield TierAttackRow(
            search=one.search,
            epsilon=one.epsilon,
            radius=radius,
            said={tier: said[r].count(clean.classes, promised) for tier, said in asked.said.items()},
            refuted=int((false & (outcomes == Outcome.NO)).sum()),
            undecided=int((false & (outcomes == Outcome.UNDECIDED)).sum()),
            confirm_votes=float(np.mean([answer.votes for answer in asked.confirmations[r]])),
        )


def _within(epsilon: float, radius: float, clean: _Clean, asked: Sequence[tuple[_Try, Answered]]) -> WithinEpsilon:
    """All searches within ε that ask about r, image by image."""
    at = [(one, one.radii.index(radius)) for tried, one in asked if tried.epsilon == epsilon and radius in one.radii]
    false = np.stack([one.said["one pass"][r].overclaims for one, r in at])
    confirms = [one.said["confirm"][r] for one, r in at]
    yes = np.stack([said.yes for said in confirms])
    another = np.stack([said.yes & (said.labels != clean.classes) for said in confirms])
    promised = clean.promised(epsilon, radius)
    held = promised & is_yes(clean.confirmations[radius])
    return WithinEpsilon(
        epsilon=epsilon,
        radius=radius,
        overclaimed=int(false.any(0).sum()),
        refused=int((false.any(0) & ~(false & yes).any(0)).sum()),
        confirm_overclaims=int(np.any([said.overclaims for said in confirms], axis=0).sum()),
        promised=int(promised.sum()),
        broken=int((promised & another.any(0)).sum()),
        held=int(held.sum()),
        stopped=int((held & ~yes.all(0)).sum()),
    )


def _spoofed_radii(target: Target, epsilon: float, images: Float32Array, settings: TierAttackSettings) -> SpoofedRadii:
    spoofed_, answers = ask_what_is_served(target, images, settings)
    return SpoofedRadii(
        epsilon=epsilon,
        images=len(images),
        spoofed=int(spoofed_.sum()),
        refuted=answers.count(Outcome.NO),
        undecided=answers.count(Outcome.UNDECIDED),
    )


def _total(
    tier: str, asked: Sequence[Answered], rows: Sequence[TierAttackRow], settings: TierAttackSettings
) -> TierTotal:
    """What one tier overclaims in all questions."""
    questions, overclaims, broken = (
        sum(getattr(row.said[tier], name) for row in rows) for name in ("asked", "overclaims", "broken")
    )
    images = np.any([said.overclaims for one in asked for said in one.said[tier]], axis=0)
    return TierTotal(
        questions=questions,
        overclaims=overclaims,
        upper_bound=float(upper_bound(overclaims, questions, alpha=1 - settings.confidence)),
        images=int(images.sum()),
        broken=broken,
    )


def _ask_often(target: Target, asked: Sequence[Answered], radius: float, settings: TierAttackSettings) -> AskedOften:
    """Ask again and again where the radius of the served class is below r, but least so."""
    candidates = [
        (float(one.truth.share[i]), one.images[i], one.served.labels[i])
        for one in asked
        if radius in one.radii
        for i in np.flatnonzero(one.truth.below(one.radii.index(radius)))
    ]
    nearest = sorted(candidates, key=lambda candidate: -candidate[0])[:_NEAREST]
    yes, repeats = 0, settings.asks // max(len(nearest), 1)
    if nearest:
        _, images, labels = (np.repeat(np.stack(part), repeats, axis=0) for part in zip(*nearest, strict=True))
        answers = ask_confirm(target, images, labels, radius=radius, alpha=settings.often_alpha, n=settings.n)
        yes = int(is_yes(answers).sum())
    questions = repeats * len(nearest)
    return AskedOften(
        radius=radius,
        alpha=settings.often_alpha,
        inputs=len(nearest),
        nearest_share=nearest[0][0] if nearest else None,
        needed_share=threshold(radius, sigma=target.victim.sigma),
        questions=questions,
        yes=yes,
        upper_bound=float(upper_bound(yes, questions, alpha=1 - settings.confidence)),
    )
