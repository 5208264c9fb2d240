"""What `bench confirm` measures: how many images are confirmed, and with how many votes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record
from heatserve.certification.confirming import Rule
from heatserve.export.card_parts import Split


@dataclass(frozen=True, kw_only=True)
class VoteCounts:
    """Votes for an image, over some images."""

    median: float
    mean: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class ConfirmedRow:
    """Every image, asked about one radius at one α by one rule."""

    radius: float
    """r, L2 on pixels in [0,1]."""
    alpha: float
    rule: str
    """Its name in `ConfirmRecord.rules`."""
    confirmed: int
    """Images of which the class of the single pass is proven within r."""
    right: int
    """Those of them whose class is the label."""
    disproven: int
    hopeless: int
    """Given up."""
    undecided: int
    """Not decided by all votes."""
    votes: VoteCounts
    served: int
    """Images for which the single pass itself serves a radius of at least r."""
    served_confirmed: int
    served_votes: VoteCounts | None
    """None where it serves none."""
    confirmed_within: tuple[int, ...]
    """Images confirmed with at most so many votes as `ConfirmRecord.totals` has."""


@dataclass(frozen=True, kw_only=True)
class ConfirmedModel:
    """One model on its test images."""

    base_sha256: str
    data: Split
    sigma: float
    sampling: str
    rows: tuple[ConfirmedRow, ...]

    def row(self, radius: float, alpha: float, rule: str) -> ConfirmedRow:
        """The row of one question."""
        return next(row for row in self.rows if (row.radius, row.alpha, row.rule) == (radius, alpha, rule))


@dataclass(frozen=True, kw_only=True)
class ConfirmRecord(Record):
    """What a confirmation costs. The votes for an image are drawn once, and every row is found on them."""

    n: int
    """Most votes for an image."""
    rules: Mapping[str, Rule]
    """The plain rule, and what is added to it, one after the other; the last is the one that is served."""
    totals: tuple[int, ...]
    models: Mapping[str, ConfirmedModel]
