"""What may be said of a rate, or of a sequence, while it is watched: bounds and tests that hold at all times together.

Two instruments, both by Ville's inequality: a nonnegative supermartingale that begins at 1 ever reaches 1/α with
probability at most α.

- *Bounds on a rate.* Let M_p be the mixture martingale of `martingale.evidence_above` against "P(success) ≤ p". The
  lower bound is L = sup {p : M_p ≥ 1/α}. Wherever M_p ≥ 1/α > e, M falls strictly in p (docs/theory.md), so the p with
  M_p ≥ 1/α are an interval (0, L]. So a bound that is ever above P means that M_P, against a true hypothesis, has
  reached 1/α. The upper bound is that on the failures.
- *Evidence* (`Evidence`). A gambler with 1 unit bets on what comes next. Each of E bettors multiplies a stake by a
  factor that is at most 1 on average where the hypothesis is true, whatever came before. What is not staked after t
  steps is 1/(1 + log(1 + t)), and what each step releases is shared by the bettors. The wealth, staked or not, is a
  nonnegative supermartingale. The late stakes know nothing of the early steps, so a change after t of them costs about
  log t + 2 log log t nats more than one at the beginning, and not the whole loss of t steps that gave no evidence.

References:
    Ville (1939), Étude critique de la notion de collectif.
    Darling and Robbins (1967), Confidence sequences for mean, variance, and median, PNAS 58.
    Howard, Ramdas, McAuliffe and Sekhon (2021), Time-uniform, nonparametric, nonasymptotic confidence sequences,
        Ann. Statist. 49.
    Ramdas, Grünwald, Vovk and Shafer (2023), Game-theoretic statistics and safe anytime-valid inference,
        Statistical Science 38.
    Shin, Ramdas and Rinaldo (2024), E-detectors: a nonparametric framework for sequential change detection, New England
        Journal of Statistics in Data Science 2: what mixtures over the time of a change cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, expit, logit

from heatserve.certification.martingale import evidence_above
from heatserve.certification.radius import Float64Array

RANK_BINS = 32
"""Equal parts of [0, 1) into which `rank_bets` sort a p-value."""

_WIDTH = 1e-9
"""By how much a bound may be below L."""
_MOST_WEALTH = 1e250
"""More of one bettor is not counted: less wealth is less evidence, and float64 ends at 1e308."""
_RATE_STEPS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0)
"""By how much the log odds of the rates that `rate_bets` bets on are above those of the hypothesis."""
_RATE_STATE: Mapping[str, type] = {"trials": int, "successes": int, "lower": float, "upper": float, "alarmed": bool}
_SHAPES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Parameters of the beta densities that `rank_bets` bets on; (1, 1) bets on nothing."""


def anytime_lower_bound(successes: int, trials: int, *, alpha: float, least: float = 0.0) -> float:
    """L, a lower confidence bound on P(success) that holds at all times together with probability at least 1 − alpha.

    Args:
        successes: s, so far.
        trials: s + f, at least 1.
        alpha: probability that any bound is above P. One above 1/e counts as 1/e, below which L is what it says.
        least: the largest bound of earlier looks, in [0,1), which is returned where this one is no larger.
    """
    enough = max(-math.log(alpha), 1.0)

    def is_refuted(p: float) -> bool:
        return bool(evidence_above(successes, trials - successes, p=p) >= enough)

    if least and not is_refuted(least):
        return least
    low, high = least, successes / trials  # M_p ≤ 1 from there on
    while high - low > _WIDTH:
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low


def anytime_upper_bound(successes: int, trials: int, *, alpha: float, most: float = 1.0) -> float:
    """An upper confidence bound on P(success), as `anytime_lower_bound`; `most` is the smallest one so far."""
    return 1 - anytime_lower_bound(trials - successes, trials, alpha=alpha, least=1 - most)


def rate_bets(alpha: float) -> Float64Array:
    """Factors [E, 2] against "P(success) ≤ α, whatever came before": after a failure, and after a success.

    Each bettor believes a rate q > α, and its factors are the likelihood ratios (1 − q)/(1 − α) and q/α. At a rate
    p ≤ α the mean of a factor is 1 + (p − α)(q − α)/(α(1 − α)) ≤ 1.

    Raises:
        ValueError: α is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a number between 0 and 1, got {alpha}")
    believed = expit(logit(alpha) + np.array(_RATE_STEPS))
    return np.stack([(1 - believed) / (1 - alpha), believed / alpha], axis=1)


def rank_bets() -> Float64Array:
    """Factors [E, RANK_BINS] against "p-values are independent and uniform", for each bin that a p-value is in.

    Each bettor believes a beta density: near 0, near 1, in the middle or at both ends. Its factors are the
    probabilities of the bins, times their number, so that their mean is 1.
    """
    edges = np.linspace(0, 1, RANK_BINS + 1)
    shapes = [(a, b) for a in _SHAPES for b in _SHAPES]
    return np.array([RANK_BINS * np.diff(betainc(a, b, edges)) for a, b in shapes])


class Evidence:
    """Evidence against a hypothesis about each of S sequences, which may be looked at after every step.

    Where the hypothesis is true of a sequence, its evidence ever reaches log(1/α) with probability at most α.

    Attributes:
        seen: steps so far, t.
        staked: what each bettor has, float64 [S, E].
    """

    def __init__(self, bets: Float64Array, *, sequences: int = 1) -> None:
        """Begin without evidence.

        Args:
            bets: factors [E, O] of E bettors at each of O outcomes; under the hypothesis none is above 1 on average.
            sequences: S.
        """
        self._bets = bets
        self.seen = 0
        self.staked = np.zeros((sequences, len(bets)))

    def see(self, outcomes: ArrayLike) -> None:
        """Take the next outcome of each sequence, integers [S] from 0 to O − 1."""
        before = self._unstaked()
        self.seen += 1
        stakes = self.staked + (before - self._unstaked()) / self.staked.shape[1]
        self.staked = np.minimum(stakes * self._bets[:, np.asarray(outcomes, np.int64)].T, _MOST_WEALTH)

    @property
    def state(self) -> dict[str, Any]:
        """All that was seen, as JSON takes it; see `resume`."""
        return {"seen": self.seen, "staked": self.staked.tolist()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of evidence on the same bets."""
        self.seen = int(state["seen"])
        self.staked = np.array(state["staked"], np.float64).reshape(self.staked.shape)

    @property
    def log(self) -> Float64Array:
        """The logarithm of the wealth, [S]; 0 at the beginning."""
        return np.asarray(np.log(self._unstaked() + self.staked.sum(axis=1)))

    def _unstaked(self) -> float:
        return 1 / (1 + math.log1p(self.seen))


class RateWatch:
    """Whether a rate is at most α, asked after every trial.

    It alarms when the data speak against that: where `lower` is above α, or where the evidence that it is so in some
    stretch of the trials is log(2/level). If the probability of a success is at most α at each trial, given all before,
    it ever alarms with probability at most `level`. If that probability is one number, it is between `lower` and
    `upper` at all times together with probability at least 1 − level.

    Attributes:
        trials, successes: so far.
        lower, upper: bounds on the rate; they only tighten.
        alarmed: whether it has alarmed. Once it has, it stays so.
        evidence: see `Evidence`.
    """

    def __init__(self, alpha: float, *, level: float) -> None:
        """Begin without a trial.

        Args:
            alpha: α, what the rate should not be above.
            level: of the alarm, and of both bounds together.

        Raises:
            ValueError: α or the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level: expected a number between 0 and 1, got {level}")
        self.alpha = alpha
        self.level = level
        self.trials = self.successes = 0
        self.lower, self.upper = 0.0, 1.0
        self.alarmed = False
        self.evidence = Evidence(rate_bets(alpha))

    def see(self, happened: bool) -> None:
        """Take the next trial."""
        self.trials, self.successes = self.trials + 1, self.successes + happened
        self.evidence.see([int(happened)])
        each = self.level / 2
        self.lower = anytime_lower_bound(self.successes, self.trials, alpha=each, least=self.lower)
        self.upper = anytime_upper_bound(self.successes, self.trials, alpha=each, most=self.upper)
        self.alarmed |= self.lower > self.alpha or bool(self.evidence.log[0] >= math.log(1 / each))

    @property
    def state(self) -> dict[str, Any]:
        """All that was seen, as JSON takes it; see `resume`."""
        return {name: getattr(self, name) for name in _RATE_STATE} | {"evidence": self.evidence.state}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of a watch of the same α, at the same level."""
        for name, kind in _RATE_STATE.items():
            setattr(self, name, kind(state[name]))
        self.evidence.resume(state["evidence"])

    @property
    def rate(self) -> float:
        """The share of successes; 0 before the first trial."""
        return self.successes / max(1, self.trials)


class Ranks:
    """Online conformal p-values: how the next value ranks among all before it and some that were there to begin with.

    If all of them are exchangeable, those to begin with included, the p-values of a sequence are independent and
    uniform on [0, 1) (Vovk 2003; Vovk, Gammerman and Shafer 2005, section 8.2). Values are cells of a grid that was
    fixed beforehand, so that what is kept does not grow; equal ones are put in order by chance, which keeps that exact.

    Attributes:
        counts: how many values lie in each cell, int64 [S, cells], of each of S sequences.
    """

    def __init__(self, counts: NDArray[np.int64], rng: np.random.Generator) -> None:
        """Begin with some values.

        Args:
            counts: how many of them lie in each cell, [S, cells].
            rng: chance that nobody knows beforehand.
        """
        self.counts = np.array(counts, np.int64)
        self._rng = rng

    def p_values(self, cells: ArrayLike) -> Float64Array:
        """The p-value of the next value of each sequence, float64 [S]: small where few of those before are as large.

        p = (#{larger} + U·#{equal})/#{all}, the value itself among the equal ones, U uniform on [0, 1).
        """
        at, rows = np.asarray(cells, np.int64), np.arange(len(self.counts))
        self.counts[rows, at] += 1
        up_to = np.cumsum(self.counts, axis=1)[rows, at]
        total, equal = self.counts.sum(axis=1), self.counts[rows, at]
        return np.asarray((total - up_to + self._rng.random(len(rows)) * equal) / total)


def bins_of(p_values: Float64Array) -> NDArray[np.int64]:
    """Which of the `RANK_BINS` bins each p-value in [0, 1) is in."""
    return np.minimum((p_values * RANK_BINS).astype(np.int64), RANK_BINS - 1)
