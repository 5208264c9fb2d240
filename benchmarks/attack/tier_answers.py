"""What the tiers answer at given inputs, and what is true there, by many more votes.

The tiers' answers come from ONNX Runtime on the very graphs, through the functions that a server runs, with noise from
fresh entropy. What is true is judged by other votes, repeatable from a seed.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from heatserve.benchmarks.attack.settings import TierAttackSettings
from heatserve.benchmarks.attack.target import IN_ONE_PASS, Target
from heatserve.benchmarks.records.attack_tiers import TierAnswers
from heatserve.certification.confirming import Confirmation, confirm, threshold
from heatserve.certification.martingale import evidence_above, evidence_below
from heatserve.certification.monte_carlo import ABSTAIN, certify
from heatserve.certification.noise import GRID
from heatserve.certification.outcome import Outcome
from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.certification.voting import Classifier, histograms, streams
from heatserve.export.tiers import Tier, TierModel

Flags = NDArray[np.bool_]
TIERS = (Tier.ONE_PASS.value, TierModel.CASCADE.value, Tier.CONFIRM.value, Tier.CERTIFY.value)
"""What is asked; a cascade in the mode *confirm what is claimed*."""

_FIRST_LOOK = 32  # votes; each look after it doubles them


@dataclass(frozen=True)
class OnePass:
    """The single pass at N inputs."""

    labels: NDArray[np.int64]
    radius: Float64Array
    """Served, [N] (L2, pixels in [0,1])."""

    def claims(self, radius: float) -> Flags:
        """Where it serves at least r, [N]."""
        return self.radius >= np.float32(radius)


@dataclass(frozen=True)
class Truth:
    """Whether the radius of a class is at least r, for N inputs and R radii, by up to `truth_votes` votes."""

    verdicts: NDArray[np.int8]
    """1: it is, −1: it is below, 0: not known or not asked; [N, R]."""
    share: Float64Array
    """Of all votes that were for the class, [N]; not a number where none was drawn."""

    def below(self, r: int) -> Flags:
        """Where the radius with that index is not reached, [N]."""
        return np.asarray(self.verdicts[:, r] < 0)

    def border(self, r: int) -> Flags:
        """Where it is not known, [N]."""
        return np.asarray(self.verdicts[:, r] == 0)


def one_pass(target: Target, images: Float32Array) -> OnePass:
    """What the served graph answers at images [N, C, H, W]."""
    outputs = target.serve(images)
    return OnePass(outputs["label"], outputs["certified_radius"].astype(np.float64))


@dataclass(frozen=True)
class Said:
    """What one tier says to "is the class proven within r?" at N inputs, for one r."""

    labels: NDArray[np.int64]
    """Its classes, [N]."""
    asked: Flags
    yes: Flags
    overclaims: Flags
    """It says yes, and the radius of its class is below r."""
    border: Flags
    """It says yes, and it is not known whether the radius is below r."""

    def count(self, classes: NDArray[np.int64], promised: Flags) -> TierAnswers:
        """In numbers, for inputs whose clean images have the classes [N], some of which are `promised` [N]."""
        another = self.yes & (self.labels != classes)
        return TierAnswers(
            asked=int(self.asked.sum()),
            yes=int(self.yes.sum()),
            overclaims=int(self.overclaims.sum()),
            border=int(self.border.sum()),
            another_class=int(another.sum()),
            broken=int((another & promised).sum()),
        )


@dataclass(frozen=True)
class Answered:
    """N inputs, R radii, and what every tier says about them."""

    images: Float32Array
    radii: tuple[float, ...]
    served: OnePass
    truth: Truth
    """Of the served classes, where the single pass or confirm says yes."""
    confirmations: tuple[Sequence[Confirmation], ...]
    """By radius, for each input."""
    said: Mapping[str, tuple[Said, ...]]
    """By tier, for each radius."""


def ask_tiers(
    target: Target, images: Float32Array, *, radii: tuple[float, ...], settings: TierAttackSettings
) -> Answered:
    """Ask every tier about images [N, C, H, W] of 8 bits, and judge what they say.

    A cascade asks confirm where the single pass claims the radius. Certify, which costs most, is asked only where the
    single pass overclaims one of the radii.
    """
    served = one_pass(target, images)
    ask = partial(ask_confirm, target, images, served.labels, alpha=settings.alpha, n=settings.n)
    confirmations = tuple(ask(radius=radius) for radius in radii)
    confirmed = np.stack([is_yes(answers) for answers in confirmations], axis=1)
    claimed = np.stack([served.claims(radius) for radius in radii], axis=1)
    asked = np.tile(np.array(radii), (len(images), 1))
    truth = judge(
        target.vote,
        images,
        served.labels,
        claimed | confirmed,
        radii=asked,
        sigma=target.victim.sigma,
        settings=settings,
    )
    everywhere = np.ones(len(images), dtype=bool)
    said = {
        tier: _said(served.labels, everywhere, yes, truth)
        for tier, yes in (("one pass", claimed), ("cascade", claimed & confirmed), ("confirm", confirmed))
    }
    spoofed = np.any([one.overclaims for one in said["one pass"]], axis=0)
    said["certify"] = _certified(target, images, spoofed, radii, settings)
    return Answered(images, radii, served, truth, confirmations, said)


def _said(labels: NDArray[np.int64], asked: Flags, yes: Flags, truth: Truth) -> tuple[Said, ...]:
    """For each radius, where a tier says yes [N, R] to the classes that the truth is about."""
    return tuple(
        Said(labels, asked, each, overclaims=each & truth.below(r), border=each & truth.border(r))
        for r, each in enumerate(yes.T)
    )


def _certified(
    target: Target, images: Float32Array, asked: Flags, radii: Sequence[float], settings: TierAttackSettings
) -> tuple[Said, ...]:
    """What certify says where it is asked, with a seed from fresh entropy."""
    labels, proven = np.full(len(images), ABSTAIN), np.zeros(len(images))
    certificates = certify(
        target.vote,
        images[asked],
        sigma=target.victim.sigma,
        n0=settings.n0,
        n=settings.n,
        alpha=settings.alpha,
        seed=secrets.randbits(32),
        noise=GRID,
        batch_size=IN_ONE_PASS,
    )
    for i, found in zip(np.flatnonzero(asked), certificates, strict=True):
        labels[i], proven[i] = found.label, found.radius
    yes = (proven[:, None] >= np.array(radii)) & (labels != ABSTAIN)[:, None]
    truth = judge(
        target.vote,
        images,
        labels,
        yes,
        radii=np.tile(np.array(radii), (len(images), 1)),
        sigma=target.victim.sigma,
        settings=settings,
    )
    return _said(labels, asked, yes, truth)


def ask_confirm(
    target: Target, images: Float32Array, labels: NDArray[np.int64], *, radius: float, alpha: float, n: int
) -> list[Confirmation]:
    """What confirm answers at each image, with fresh entropy."""
    asked = confirm(
        target.vote,
        images,
        labels.tolist(),
        radius=radius,
        sigma=target.victim.sigma,
        n=n,
        alpha=alpha,
        noise=GRID,
        batch_size=IN_ONE_PASS,
    )
    return list(asked)


def is_yes(answers: Sequence[Confirmation]) -> Flags:
    """Where confirm says yes, [N]."""
    return np.array([answer.outcome is Outcome.YES for answer in answers], dtype=bool)


def judge(
    classifier: Classifier,
    images: Float32Array,
    labels: NDArray[np.int64],
    needed: Flags,
    *,
    radii: Float64Array,
    sigma: float,
    settings: TierAttackSettings,
) -> Truth:
    """Which radii the classes have at the images: a sequential test of both answers, for all radii on the same votes.

    Args:
        classifier: the base classifier f.
        images: 8-bit images [N, C, H, W].
        labels: classes [N].
        needed: of which inputs and radii the truth is wanted, [N, R].
        radii: r, for each input, [N, R] (L2, pixels in [0,1]).
        sigma: σ of the noise.
        settings: most votes, the probability of a wrong verdict for each input and radius, and the seed.
    """
    verdicts = np.zeros(needed.shape, dtype=np.int8)
    votes, drawn = np.zeros(len(images)), np.zeros(len(images))
    fills = [*streams(images, indices=None, sigma=sigma, seed=settings.seed, noise=GRID)]
    enough, total = -math.log(settings.truth_alpha), 0
    while total < settings.truth_votes and (open_ := needed & (verdicts == 0)).any():
        size = min(max(total, _FIRST_LOOK), settings.truth_votes - total)
        drawing = np.flatnonzero(open_.any(1))
        requests = ((fills[i], size) for i in drawing)
        counts = histograms(classifier, requests, shape=images.shape[1:], batch_size=IN_ONE_PASS)
        for i, histogram in zip(drawing, counts, strict=True):
            votes[i], drawn[i] = votes[i] + histogram[labels[i]], drawn[i] + size
        total += size
        for radius in np.unique(radii[open_]):
            p = threshold(float(radius), sigma=sigma)
            at = np.nonzero(open_ & (radii == radius))
            successes, failures = votes[at[0]], drawn[at[0]] - votes[at[0]]
            above, below = (test(successes, failures, p=p) >= enough for test in (evidence_above, evidence_below))
            verdicts[at] = above.astype(np.int8) - below.astype(np.int8)
    with np.errstate(invalid="ignore"):
        return Truth(verdicts, votes / drawn)


def ask_what_is_served(
    target: Target, images: Float32Array, settings: TierAttackSettings
) -> tuple[Flags, list[Outcome]]:
    """Where the served radius is above that of the class, [N], and what confirm answers there about that very radius.

    `n` votes judge, so that a radius that is nearly right, as most are, costs no more; confirm may take `truth_votes`,
    since the radius is often too large for n.
    """
    served, few = one_pass(target, images), replace(settings, truth_votes=settings.n)
    positive, radii = served.radius > 0, served.radius
    truth = judge(
        target.vote,
        images,
        served.labels,
        positive[:, None],
        radii=radii[:, None],
        sigma=target.victim.sigma,
        settings=few,
    )
    spoofed = positive & truth.below(0)
    answers = list[Outcome]()
    for radius in np.unique(radii[spoofed]):
        at = spoofed & (radii == radius)
        found = ask_confirm(
            target, images[at], served.labels[at], radius=float(radius), alpha=settings.alpha, n=settings.truth_votes
        )
        answers += [answer.outcome for answer in found]
    return spoofed, answers
