"""Whether the order of the paper's four systems is the same here, number by number."""

from __future__ import annotations

import numpy as np

from heatserve.benchmarks.paper.published import PublishedDistances
from heatserve.benchmarks.paper.summary import paper_l_bound
from heatserve.benchmarks.paper.tables import NOT_RUN, PaperTable, PaperView

_MEASURES = ("L-bound", "PGD", "DDN")


def orders_table(view: PaperView) -> PaperTable:
    """For each column of Table 3 or 5, the systems from the largest number to the smallest, there and here."""
    published = view.published
    lines = []
    for measure in _MEASURES:
        for statistic in ("median", "mean"):
            there = {name: _printed(row, measure, statistic) for name, row in published.rows.items()}
            here = {name: _measured(view, name, measure, statistic) for name in there if there[name] is not None}
            found = {name: value for name, value in here.items() if value is not None}
            ours = _ordered(found) if len(found) == len(here) else NOT_RUN
            lines.append((f"{measure}, {statistic}", _ordered({n: v for n, v in there.items() if v is not None}), ours))
    return PaperTable(
        title=f"The order of Table {published.number}; {view.heading}",
        note=f"largest first; paper: {published.dataset}, {published.architecture}, σ = {published.sigma:g}, by the "
        "names that the systems have here.",
        headings=("column", "paper", "here"),
        lines=tuple(lines),
    )


def _ordered(values: dict[str, float]) -> str:
    return ", ".join(sorted(values, key=lambda name: -values[name]))


def _printed(row: PublishedDistances, measure: str, statistic: str) -> float | None:
    pair = {"L-bound": row.l_bound, "PGD": row.pgd, "DDN": row.ddn}[measure]
    found: float | None = None if pair is None else getattr(pair, statistic)
    return found


def _measured(view: PaperView, system: str, measure: str, statistic: str) -> float | None:
    row, attack = view.row(system), view.attack(system, measure)
    if measure == "L-bound":
        if row is None:
            return None
        bounds = paper_l_bound(row)
        return float(np.median(bounds) if statistic == "median" else np.mean(bounds))
    if attack is None:
        return None
    median = float("inf") if attack.median is None else attack.median
    return median if statistic == "median" else attack.mean
