"""An audit of a calibrated promise: on answers that it never saw, is the overclaim rate below what it says?

Calibration accepts a promise when its data speak *for* it; an audit fails the promise when other data speak *against*
it. Both test one number, the share of overclaims among the answers with a positive radius. `judge_promise` is the exact
one-sided binomial test of "the rate is at most α" at level δ: a promise that holds fails with probability at most δ.
What a pass is worth is the power of that test, which `Verdict.detectable` states.

References:
    Clopper and Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heatserve.certification.binomial import lower_bound, upper_bound
from heatserve.certification.calibration import images_needed
from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float64Array

POWER = 0.95
"""Probability with which an audit fails at the rate that it calls detectable."""


class AuditError(HeatserveError):
    """These images, or this promise, cannot be audited."""


@dataclass(frozen=True)
class Rate:
    """`count` of `total`, and exact (Clopper-Pearson) bounds on the true rate; each holds with the same confidence."""

    count: int
    total: int
    lower_bound: float
    upper_bound: float


@dataclass(frozen=True)
class Verdict:
    """Whether an audit speaks against a promise, and how well it could have."""

    passed: bool
    reasons: tuple[str, ...]
    """Why it failed, a sentence each; none where it passed."""
    positive_needed: int | None = None
    """Fewest positive radii for which a calibration, with no overclaim, could make the promise. None: no promise."""
    fails_from: int | None = None
    """The smallest number of overclaims that would have failed, given the positive radii. None: no number would."""
    detectable: float | None = None
    """The smallest true rate that would have failed with probability `POWER`. None: there is no such rate."""


@dataclass(frozen=True)
class Partition:
    """Answers sorted into groups: answer i is in group `members[i]`, whose name is `names[members[i]]`."""

    by: str
    names: tuple[str, ...]
    members: NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Overclaims among the positive radii of one group; bounds corrected for all groups that are looked at together."""

    by: str
    name: str
    overclaims: Rate
    flagged: bool
    """The lower bound is above α: this group overclaims more than all answers together may."""


def rate(happened: NDArray[np.bool_], *, delta: float) -> Rate:
    """How often something happened [N], with bounds that hold with confidence 1 − δ each."""
    count, total = int(happened.sum()), len(happened)
    bounds = (float(bound(count, total, alpha=delta)) for bound in (lower_bound, upper_bound))
    return Rate(count, total, *bounds)


def check_promise(*, alpha: float, delta: float) -> None:
    """Refuse a promise that says nothing, or more than data can tell.

    Raises:
        AuditError: α or δ outside (0, 1).
    """
    for name, share in (("alpha", alpha), ("delta", delta)):
        if not 0 < share < 1:
            raise AuditError(f"{name}: expected a promise with a number between 0 and 1, got {share}")


def judge_promise(count: int, positive: int, *, alpha: float, delta: float) -> Verdict:
    """Fail the promise "the rate is at most α, with confidence 1 − δ" on `count` overclaims of `positive` radii.

    It fails where the exact lower bound, at confidence 1 − δ, is above α; and where there are too few positive radii to
    make the promise from, or for any count to fail. A true rate of at most α fails by its count with probability ≤ δ.

    Raises:
        AuditError: α or δ outside (0, 1).
    """
    check_promise(alpha=alpha, delta=delta)
    needed = images_needed(alpha, delta)
    fails_from = _fails_from(positive, alpha, delta)
    reasons = []
    if positive < needed or fails_from is None:
        reasons.append(
            f"Too few positive radii to mean anything: expected at least {needed} for α = {alpha:g} at confidence "
            f"{1 - delta:g}, got {positive}. Audit more images."
        )
    if fails_from is not None and count >= fails_from:
        bound = float(lower_bound(count, positive, alpha=delta))
        reasons.append(
            f"{count} of {positive} positive radii overclaim: with confidence {1 - delta:g} the rate is above "
            f"{bound:.2%}, and the promise is at most {alpha:.2%}. Calibrate on images like these before serving."
        )
    detectable = None if fails_from is None else float(lower_bound(fails_from, positive, alpha=POWER))
    return Verdict(not reasons, tuple(reasons), needed, fails_from, detectable)


def speaks_against(count: int, positive: int, *, alpha: float, delta: float) -> bool:
    """Whether the exact binomial test at level δ rejects "the rate is at most α", on `count` overclaims of `positive`.

    It rejects a true rate of at most α with probability at most δ.
    """
    return bool(lower_bound(count, positive, alpha=delta) > alpha)


def _fails_from(positive: int, alpha: float, delta: float) -> int | None:
    """The smallest count c whose lower bound is above α; at the rate p, P(count ≥ c) = I_p(c, positive − c + 1)."""
    failing = lower_bound(np.arange(positive + 1), positive, alpha=delta) > alpha
    return int(failing.argmax()) if failing.any() else None


def look_at_groups(
    partitions: tuple[Partition, ...],
    positive: NDArray[np.bool_],
    overclaims: NDArray[np.bool_],
    *,
    alpha: float,
    delta: float,
) -> tuple[Group, ...]:
    """Every group that has a positive radius, with bounds that hold for all groups *together* (Bonferroni).

    Given what is grouped, each of the m groups gets confidence 1 − δ/m: where no group's rate is above α, any group is
    flagged with probability at most δ.

    Args:
        partitions: ways to group the answers.
        positive: answers with a positive radius, [N].
        overclaims: those among them that overclaim, [N].
    """
    chosen = [
        (partition, index, (partition.members == index) & positive)
        for partition in partitions
        for index in np.unique(partition.members[positive])
    ]
    groups = []
    for partition, index, members in chosen:
        found = rate(overclaims[members], delta=delta / len(chosen))
        groups.append(Group(partition.by, partition.names[index], found, found.lower_bound > alpha))
    return tuple(groups)


def by_radius(radius: Float64Array, *, width: float) -> Partition:
    """Radii [N] in bins (0, width], (width, 2·width], …; a radius of 0 is in none (member −1)."""
    members = np.ceil(radius / width).astype(np.int64) - 1
    names = tuple(f"{i * width:g} to {(i + 1) * width:g}" for i in range(int(members.max(initial=-1)) + 1))
    return Partition("radius", names, members)


def certified_accuracy(right: NDArray[np.bool_], radius: Float64Array, radii: ArrayLike) -> tuple[float, ...]:
    """Share of images with the right class [N] and a positive radius [N] of at least r, for each r of `radii`."""
    certified = np.sort(radius[right & (radius > 0)])
    below = np.searchsorted(certified, np.asarray(radii, dtype=np.float64))
    return tuple(((len(certified) - below) / len(right)).tolist())
