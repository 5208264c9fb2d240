"""What `heatserve attack-tiers` measures: what an adversary makes of one pass, cascade, confirm and certify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heatserve.benchmarks.attack.settings import TierAttackSettings
from heatserve.benchmarks.records.record import Record
from heatserve.export.card_parts import MonteCarlo, Split


@dataclass(frozen=True, kw_only=True)
class TierAnswers:
    """What one tier answers to "is this class proven within r?" at the inputs of one search."""

    asked: int
    """Inputs."""
    yes: int
    """Of those asked. A single pass says yes where it serves at least r."""
    overclaims: int
    """Of `yes`: the class's radius is below r, by many votes."""
    border: int
    """Of `yes`: so many votes do not decide whether the radius is below r."""
    another_class: int
    """Of `yes`: the class is another than that of the clean image, which an ε above r allows."""
    broken: int
    """Of `another_class`: the clean image is proven at r, and the input is nearer to it than r. A theorem allows none
    for confirm, cascade and certify, but for α."""


@dataclass(frozen=True, kw_only=True)
class TierAttackRow:
    """One search within L2 distance ε of each image, and questions about the radius r at what it found."""

    search: str
    epsilon: float
    radius: float
    said: Mapping[str, TierAnswers]
    """By tier: `one pass`; `cascade`, in the mode *confirm what is claimed* (with *try anyway* it is confirm);
    `confirm`; `certify`, which is asked only where the single pass overclaims."""
    refuted: int
    """Of the overclaims of the single pass: confirm says no."""
    undecided: int
    """Of the overclaims of the single pass: confirm is undecided."""
    confirm_votes: float
    """Mean over the inputs."""


@dataclass(frozen=True, kw_only=True)
class WithinEpsilon:
    """All searches within ε together, for questions about r: images near which one of them found such an input."""

    epsilon: float
    radius: float
    overclaimed: int
    """The single pass overclaims r."""
    refused: int
    """Of `overclaimed`: confirm says yes to none of these inputs."""
    confirm_overclaims: int
    """Confirm says yes, and the radius of the class is below r."""
    promised: int
    """Clean images that are proven at r, where ε is at most r; 0 where it is not."""
    broken: int
    """Of `promised`: another class is confirmed."""
    held: int
    """Of `promised`: the clean image is confirmed as it is."""
    stopped: int
    """Of `held`: at some input confirm does not say yes."""

    @property
    def can_promise(self) -> bool:
        """Whether every input within ε is nearer than r."""
        return self.epsilon <= self.radius


@dataclass(frozen=True, kw_only=True)
class SpoofedRadii:
    """Served radii that a search within ε drove above those of their classes, and confirm asked about the same."""

    epsilon: float
    images: int
    spoofed: int
    """By up to n votes that refute the radius; others may be wrong by less."""
    refuted: int
    undecided: int

    @property
    def confirmed(self) -> int:
        """Confirm says yes."""
        return self.spoofed - self.refuted - self.undecided


@dataclass(frozen=True, kw_only=True)
class HonestCost:
    """What the tiers answer at the clean images, for one radius."""

    radius: float
    images: int
    proven: int
    """By Certify, for the class that the single pass answers."""
    confirmed: int
    """Confirm says yes."""
    confirmed_of_proven: int
    claimed: int
    """The single pass serves at least r."""
    claimed_of_proven: int
    cascaded: int
    """The cascade, in the mode *confirm what is claimed*, says yes."""
    cascaded_of_proven: int
    median_votes: float
    """Of confirm, all images."""
    mean_votes: float
    mean_votes_cascade: float
    """Where nothing is claimed, none."""


@dataclass(frozen=True, kw_only=True)
class AskedOften:
    """The inputs at which a false yes is likeliest, asked again and again at a large α."""

    radius: float
    alpha: float
    inputs: int
    """Those whose class's radius is below r by many votes, and nearest to it."""
    nearest_share: float | None
    """Of the votes at the input nearest to r that are for the class; None: there is no input."""
    needed_share: float
    """Φ(r/σ): the share that r needs."""
    questions: int
    yes: int
    """Each is wrong."""
    upper_bound: float
    """Exact, on the probability of a yes at these inputs."""


@dataclass(frozen=True, kw_only=True)
class TierTotal:
    """What one tier was found to overclaim in all questions of all searches."""

    questions: int
    overclaims: int
    upper_bound: float
    """Exact, on the share of such questions; of a tier with fresh noise each question is a trial of its own."""
    images: int
    """Images near which some search found an overclaim."""
    broken: int
    """See `TierAnswers`."""


@dataclass(frozen=True, kw_only=True)
class KnownSeed:
    """Confirm asked about a class that is wrong everywhere, by somebody who knows the noise, and with fresh noise."""

    sigma: float
    radius: float
    alpha: float
    largest_distance: float
    """L2, of an input from its clean image."""
    probability: float
    """Exact: of a vote for the wrong class, at every image."""
    images: int
    confirmed_with_known_seed: int
    fresh_questions: int
    confirmed_with_fresh_noise: int


@dataclass(frozen=True, kw_only=True)
class TierAttackRecord(Record):
    """What an adversary found who has both graphs of a model, the code and every past answer, but not the noise to
    come.

    Searches and the votes that judge are repeatable from `seed`; the tiers' own noise is fresh, as it is when served.
    """

    model: str
    graph_sha256: str
    data: Split
    monte_carlo: MonteCarlo
    """Certify on the clean images."""
    settings: TierAttackSettings
    honest: tuple[HonestCost, ...]
    spoofed: tuple[SpoofedRadii, ...]
    within: tuple[WithinEpsilon, ...]
    rows: tuple[TierAttackRow, ...]
    totals: Mapping[str, TierTotal]
    """By tier, as in `TierAttackRow`."""
    asked_often: tuple[AskedOften, ...]
    known_seed: KnownSeed

    def proofs(self, tier: str) -> int:
        """The answers yes of a tier in all questions of all searches: what it abstains from is no proof."""
        return sum(row.said[tier].yes for row in self.rows if tier in row.said)
