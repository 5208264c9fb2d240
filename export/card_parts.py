"""The parts of a certificate card: how images were drawn and Certify ran on them, the promise, and what was measured.

Each part refuses numbers that contradict each other. Nothing here needs torch.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from heatserve.certification.binomial import at_most, upper_bound
from heatserve.certification.guard import Guard
from heatserve.certification.noise import FLOAT32, FORMER_KEYS, source_of
from heatserve.certification.operator_norm import largest_step
from heatserve.certification.radius import RadiusMap
from heatserve.certification.rounding import PotentialLayer
from heatserve.export.promise import promise_text

TIE = 1e-6
"""Two logits that are further apart have different probabilities in float32."""
LEAST_TEMPERATURE = 2.0**-20
"""Logits that are divided by less might overflow."""
_BOUND_TOLERANCE = 1e-6
"""Relative: what versions of scipy may differ by in an exact bound."""

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, revalidate_instances="always")


class MonteCarlo(Part):
    """How the reference was run on the base classifier's votes: Certify of Cohen et al. (2019), or one decision."""

    n0: Count
    n: Count
    alpha: Share
    seed: int
    sampling: str = FLOAT32.key
    """The `key` of the `NoiseSource` that sampled the noise."""
    decides: Annotated[float, Field(gt=0)] | None = None
    """The one radius (L2, pixels in [0,1]) that `sequential.decide` found proven or not, with n votes at most; None:
    Certify, with n."""

    @model_validator(mode="before")
    @classmethod
    def _from_former_card(cls, fields: Any) -> Any:
        """Former results have a field `classifier`, which is always `votes`; it is ignored."""
        if isinstance(fields, dict) and fields.get("classifier") == "votes":
            return {name: value for name, value in fields.items() if name != "classifier"}
        return fields

    @field_validator("sampling")
    @classmethod
    def _key(cls, sampling: str) -> str:
        """Former results have a sentence in place of the key."""
        return source_of(FORMER_KEYS.get(sampling, sampling)).key

    @property
    def heading(self) -> str:
        """Who proves, for a column or a curve."""
        return f"Certify, n = {self.n:,}" if self.decides is None else f"decided, n ≤ {self.n:,}"

    @property
    def described(self) -> str:
        """Who proves, for a sentence."""
        settings = f"n0 = {self.n0}, n {'=' if self.decides is None else '<='} {self.n}, alpha = {self.alpha:g}"
        if self.decides is None:
            return f"Certify ({settings})"
        return f"a sequential test of the radius {self.decides:g} ({settings})"


class OverclaimCount(Part):
    """`overclaims` of `positive` answers with a positive radius, out of `images` answers in all."""

    images: Count
    positive: Count
    overclaims: Count

    @model_validator(mode="after")
    def _counts(self) -> OverclaimCount:
        _check_count("overclaims", self.overclaims, self.positive, "answers with a positive radius")
        _check_count("positive", self.positive, self.images, "images")
        return self


class OverclaimRate(OverclaimCount):
    """Such counts on images that chose nothing, with a bound on the rate."""

    upper_bound: Share
    """Exact (Clopper-Pearson) upper confidence bound on the rate given a positive radius."""

    def check_bound(self, name: str, confidence: float) -> None:
        """Raise ValueError, which says `name`, unless `upper_bound` is that of the counts at this confidence."""
        _check_bound(f"{name}.upper_bound", self.upper_bound, self.overclaims, self.positive, confidence)


def _check_count(name: str, found: int, largest: int, what: str) -> None:
    if found > largest:
        raise ValueError(f"{name}: expected at most the {largest} {what}, got {found}")


def _check_images(name: str, rate: OverclaimCount, data: Split) -> None:
    if rate.images != data.images:
        raise ValueError(f"{name}.images: expected the {data.images} of its split {data.split!r}, got {rate.images}")


def _check_bound(name: str, found: float, count: int, trials: int, confidence: float) -> None:
    expected = float(upper_bound(count, trials, alpha=1 - confidence))
    if not math.isclose(found, expected, rel_tol=_BOUND_TOLERANCE):
        raise ValueError(
            f"{name}: expected {expected:.6g}, the exact bound for {count} of {trials} at confidence {confidence:g}, "
            f"got {found:.6g}"
        )


class CertifiedAccuracy(Part):
    """Share of images whose class is right and whose radius is at least each of `radii` (L2, pixels in [0,1])."""

    radii: tuple[float, ...]
    single_pass: tuple[Share, ...]
    """Served radii; an overclaim whose class is right counts as certified."""
    l_bound: tuple[Share, ...]
    nominal: tuple[Share, ...]
    monte_carlo: tuple[Share, ...]
    backed: tuple[Share, ...] | None = None
    """As `single_pass`, and no overclaim counts; None: not measured, in results from before it was."""

    @model_validator(mode="after")
    def _curves(self) -> CertifiedAccuracy:
        """More images have a small radius than a large one."""
        if sorted(set(self.radii)) != list(self.radii):
            raise ValueError(f"radii: expected increasing numbers, got {self.radii}")
        for name in ("single_pass", "l_bound", "nominal", "monte_carlo", "backed"):
            shares = getattr(self, name)
            if shares is None:
                continue
            if len(shares) != len(self.radii) or sorted(shares, reverse=True) != list(shares):
                raise ValueError(f"{name}: expected {len(self.radii)} shares that do not increase, got {shares}")
        return self


class Split(Part):
    """Which images a number was computed on."""

    dataset: str
    split: str
    images: Count
    seed: int
    """Of the permutation of the split that they were taken from."""
    first: Count = 0
    """How many images of the permutation come before them."""
    passed_over: Count = 0
    """Images of the permutation that come among them and were left out, since training saw them or they are repeats."""

    @property
    def end(self) -> int:
        """The index of the first image of the permutation that comes after them."""
        return self.first + self.images + self.passed_over


class Calibration(Part):
    """The promise, the constants in the graph that carry it, and the data it was fitted on."""

    promise: str
    """`promised`, which a card cannot say otherwise."""
    method: str
    alpha: Annotated[float, Field(gt=0, le=1)]
    """1 promises nothing."""
    confidence: Share
    """That the rate is at most α for the map on this card, and for that of every other attempt among `looks`."""
    looks: Annotated[int, Field(ge=1)]
    """Attempts that count, this one included: those that used an image of `check`, by any network, whether a map passed
    or not, and those of this network, or of another beside its base, that failed (see `calibration.attempts`)."""
    spent: Annotated[float, Field(ge=0)]
    """The sum of the levels that the earlier ones of these attempts were tested at."""
    level: Annotated[float, Field(gt=0, le=1)]
    """The level that this attempt's maps were tested at: the probability that one with a larger rate than α passes."""
    target: Annotated[float, Field(gt=0)] | None
    """The radius that the map was made for; None: all of them."""
    radius_map: RadiusMap
    guard: Guard | None = None
    """Refuses images unlike those of `fit`, which it comes from; None: nothing is refused."""
    fit: Split
    check: Split
    vouched: bool = False
    """Whether it is only the user's word that no training saw the images of `fit` and `check`."""
    monte_carlo: MonteCarlo
    overclaim: OverclaimCount
    """Counted on the images of `check`. They chose the map, so no bound on its rate but α can be stated from them."""

    @model_validator(mode="after")
    def _supported(self) -> Calibration:
        """The promise is what the counts on the images of `check` support, and what was spent before leaves of δ."""
        _check_images("overclaim", self.overclaim, self.check)
        chance = float(at_most(self.overclaim.overclaims, self.overclaim.positive, self.alpha))
        if chance > self.level * (1 + _BOUND_TOLERANCE):
            raise ValueError(
                f"overclaim: expected counts whose exact p-value for a rate above alpha = {self.alpha:g} is at most "
                f"level, {self.level:g}, got {chance:.6g}"
            )
        left = max(0.0, 1 - self.spent - self.level)
        if self.confidence > left + _BOUND_TOLERANCE:
            raise ValueError(f"confidence: expected at most 1 - spent - level, {left:g}, got {self.confidence:g}")
        if (self.looks == 1) != (self.spent == 0):
            raise ValueError(f"spent: expected 0 for the first look only, got {self.spent:g} and looks {self.looks}")
        return self

    def promised(self, sigma: float) -> str:
        """The promise in words, for a smoothed classifier of σ = `sigma`."""
        return promise_text(
            sigma=sigma,
            alpha=self.alpha,
            confidence=self.confidence,
            looks=self.looks,
            reference=self.monte_carlo.described,
            error=self.monte_carlo.alpha,
            vouched=self.vouched,
        )


class LipschitzLayer(Part):
    """x − step·Wᵀ ReLU(Wx + b), whose constant is at most 1 since step ≤ 2/norm² (Meunier et al. 2022)."""

    channels: Annotated[int, Field(gt=0)]
    kernel_size: Annotated[int, Field(gt=0)]
    size: Annotated[int, Field(gt=0)]
    """Pixels of a side of what the layer gets."""
    norm: Annotated[float, Field(ge=0)]
    """At least ‖W‖₂."""
    bounded_by: Literal["cholesky"] = "cholesky"
    """How: norm²·I − WᵀW was proven to be positive semidefinite (`certification.operator_norm`)."""
    absolute_norm: Annotated[float, Field(ge=0)]
    """At least the norm of W with the absolute values of its numbers."""
    bias: Annotated[float, Field(ge=0)]
    """At least the norm of b, written out for every pixel."""
    step: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _contracts(self) -> LipschitzLayer:
        if self.step > largest_step(self.norm):
            raise ValueError(
                f"step: expected at most {largest_step(self.norm):.17g}, with which a layer of norm {self.norm:.17g} "
                f"is 1-Lipschitz, got {self.step:.17g}"
            )
        return self

    @property
    def rounding(self) -> PotentialLayer:
        """What the bound on rounding needs to know of it."""
        return PotentialLayer(
            norm=self.norm,
            absolute_norm=self.absolute_norm,
            step=self.step,
            terms=self.kernel_size**2 * self.channels + 1,
            bias=self.bias,
        )


class LipschitzBound(Part):
    """The proof of a deterministic certificate, in numbers: no layer's constant is above 1, so the network's is not.

    Between the layers there are maxima, minima and choices of pixels and channels, whose constant is 1.
    """

    constant: Literal[1] = 1
    """L̄: logits of two images are no further apart (L2) than these, in real arithmetic."""
    layers: Annotated[tuple[LipschitzLayer, ...], Field(min_length=1)]
    logits_error: Annotated[float, Field(gt=0)]
    """How far (L2) logits in float64 are from those in real arithmetic, for any image, at most."""
    slack: Annotated[float, Field(gt=0)]
    """What is taken off each radius; see `slack_of`."""
    temperature: Annotated[float, Field(ge=LEAST_TEMPERATURE, le=1)] = 1.0
    """T of the served softmax(logits / T): logits of such a network are close together. No radius depends on it."""

    @model_validator(mode="after")
    def _enough(self) -> LipschitzBound:
        if self.slack < self.logits_error * 2:
            raise ValueError(f"slack: expected at least {2 * self.logits_error:.3g}, got {self.slack:.3g}")
        return self

    @property
    def promise(self) -> str:
        """The promise in words."""
        return (
            "A radius r says that this model answers the class that is served for every image within L2 distance r "
            "(pixels in [0,1]) of the one that the network saw, whoever made either of them. It is proven, without a "
            "probability of error, and needed no calibration: no logits of two images are further apart than the "
            f"images, since the norm of each of the {len(self.layers)} layers is bounded, and {self.slack:.2g} is "
            "taken off each radius for what rounding can do. It rests on float64 arithmetic as IEEE 754 has it."
        )


def slack_of(logits_error: float, input_shape: tuple[int, int, int]) -> float:
    """What to take off the radius (f_a − f_b)/√2 of logits that are off by at most `logits_error` (L2).

    Both the logits of the image that is certified and those of the image within the radius may be off, each by
    √2·`logits_error` in a difference of two. Two logits must be `TIE` apart for their probabilities to differ in
    float32. Pixels that are given as 8 bits are off by half a unit in the last place of float32 where they are divided
    by 255.
    """
    return (2 * logits_error + TIE + 2.0**-24 * math.sqrt(math.prod(input_shape))) * (1 + 2.0**-20)


class RadiusBin(Part):
    """Overclaims among the served radii above `above` and at most `up_to` (L2, pixels in [0,1])."""

    above: Annotated[float, Field(ge=0)]
    up_to: Annotated[float, Field(gt=0)]
    positive: Count
    overclaims: Count


class OtherInputs(OverclaimCount):
    """What test images are answered after a change that calibration images did not have; no promise is about them."""

    kind: str
    """What was done to the images, such as `inverted`."""
    refused: Count
    """Answered with radius 0 since they are unlike the calibration images, whatever the single pass says."""


class Evaluation(Part):
    """Measured on test images, which chose no map."""

    data: Split
    monte_carlo: MonteCarlo
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of each bound, for itself. Results from before it was stated have 0.95."""
    clean_accuracy: Share
    smoothed_accuracy: Share
    """Accuracy of the smoothed classifier, whose class is taken to be the one with the most votes."""
    agreement: Share
    """Share of images on which the single pass names the class that is the most frequent of all votes."""
    calibrated: OverclaimRate
    nominal: OverclaimRate
    by_radius: tuple[RadiusBin, ...] = ()
    """The counts of `calibrated` by served radius: the promise is about all of them together, not about each."""
    other_inputs: tuple[OtherInputs, ...] = ()
    """What inputs that the card was not made for are answered; none: not measured."""
    certified_accuracy: CertifiedAccuracy

    @model_validator(mode="after")
    def _of_one_split(self) -> Evaluation:
        _check_images("calibrated", self.calibrated, self.data)
        _check_images("nominal", self.nominal, self.data)
        self.calibrated.check_bound("calibrated", self.confidence)
        self.nominal.check_bound("nominal", self.confidence)
        return self


class Spoofed(Part):
    """Served radii at the worst inputs that a search found within L2 distance `epsilon` of each image."""

    epsilon: Annotated[float, Field(gt=0)]
    overclaim: OverclaimRate
    upper_bound_of_all: Share
    """Exact upper confidence bound on the rate among all answers."""


class Attack(Part):
    """What an adversary found who has both graphs. No promise: an adversary who searches longer may find more."""

    data: Split
    monte_carlo: MonteCarlo
    confidence: Share
    """Confidence of each bound, for itself."""
    served_positive: Count
    changed_within_served: Count
    """Images whose single-pass class changes within their served radius, of `served_positive` with one above 0."""
    proven_tested: Count
    changed_within_proven: Count
    """Attacks that changed the smoothed class within a proven radius, of `proven_tested`: errors of Certify."""
    spoofed: tuple[Spoofed, ...]
    date: str

    @model_validator(mode="after")
    def _counts(self) -> Attack:
        served = "images with a positive radius"
        _check_count("served_positive", self.served_positive, self.data.images, "images")
        _check_count("changed_within_served", self.changed_within_served, self.served_positive, served)
        _check_count("changed_within_proven", self.changed_within_proven, self.proven_tested, "attacks")
        for i, row in enumerate(self.spoofed):
            name, seen = f"spoofed.{i}.overclaim", row.overclaim
            _check_images(name, seen, self.data)
            seen.check_bound(name, self.confidence)
            bound = row.upper_bound_of_all
            _check_bound(f"spoofed.{i}.upper_bound_of_all", bound, seen.overclaims, seen.images, self.confidence)
        return self
