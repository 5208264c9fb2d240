"""From times of a deterministic and a stochastic way to their seconds and their ratio."""

from __future__ import annotations

import numpy as np

from heatserve.benchmarks.records.table2 import MedianRatio, Seconds, SpeedPair
from heatserve.certification.binomial import at_most
from heatserve.export.runtime.timing import Times

CONFIDENCE = 0.95
"""At least, of the interval of a ratio, where there are enough rounds for it."""


def speed_pair(deterministic: Times, stochastic: Times) -> SpeedPair:
    """Both ways in seconds, and their ratio.

    Args:
        deterministic: milliseconds, one list a round.
        stochastic: the same of as many rounds, each in the same seconds as that of the other way.
    """
    return SpeedPair(
        deterministic=_seconds(deterministic),
        stochastic=_seconds(stochastic),
        ratio=median_ratio(stochastic, deterministic),
    )


def median_ratio(times: Times, base: Times) -> MedianRatio:
    """The median over the rounds of a round's median divided by that of `base`, with an interval.

    Of m independent rounds, those below their median are Binomial(m, ½) in number, whatever the distribution. So the
    median lies between the (l + 1)-th smallest ratio and the (l + 1)-th largest but with probability 2·P(X ≤ l). The
    largest l is taken that leaves `CONFIDENCE`; where none does, 0.
    """
    ratios = np.sort([np.median(block) / np.median(other) for block, other in zip(times, base, strict=True)])
    m = len(ratios)
    misses = [2 * float(at_most(below, m, 0.5)) for below in range((m + 1) // 2)]
    left_out = max((below for below, miss in enumerate(misses) if miss <= 1 - CONFIDENCE), default=0)
    return MedianRatio(
        median=float(np.median(ratios)),
        low=float(ratios[left_out]),
        high=float(ratios[m - 1 - left_out]),
        confidence=max(0.0, 1 - misses[left_out]),
        rounds=m,
    )


def _seconds(times: Times) -> Seconds:
    values = np.concatenate(times) / 1000
    p25, p50, p75 = (float(np.percentile(values, q)) for q in (25, 50, 75))
    return Seconds(p25=p25, p50=p50, p75=p75, count=len(values))
