"""Whether the order of the paper's four systems is the same here, number by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from heatserve.benchmarks.paper.published import TABLE_4, TABLE_4_SIGMA, PublishedDistances
from heatserve.benchmarks.paper.summary import BAND_CONFIDENCE, certify_curve, paper_l_bound, served_curve
from heatserve.benchmarks.paper.tables import NOT_RUN, PaperTable, PaperView
from heatserve.benchmarks.records.paper import SystemRow
from heatserve.certification.monte_carlo import largest_provable
from heatserve.certification.radius import Float64Array

_MEASURES = ("L-bound", "PGD", "DDN")
_RESAMPLES = 1000


def orders_table(view: PaperView) -> PaperTable:
    """For each column of Table 3 or 5, the systems from the largest number to the smallest, there and here."""
    published = view.published
    lines = []
    for measure in _MEASURES:
        for statistic in ("median", "mean"):
            printed = {name: _printed(row, measure, statistic) for name, row in published.rows.items()}
            there = {name: value for name, value in printed.items() if value is not None}
            here = {name: values for name in there if (values := _measured(view, name, measure)) is not None}
            ours = _order_here(here, statistic) if len(here) == len(there) else NOT_RUN
            lines.append((f"{measure}, {statistic}", _ordered(there), ours))
    return PaperTable(
        title=f"The order of Table {published.number}; {view.heading}",
        note=f"largest first; paper: {published.dataset}, {published.architecture}, σ = {published.sigma:g}, by the "
        "names that the systems have here. Here on the first images, which all of a column were measured on; "
        f"≈: the {BAND_CONFIDENCE:.0%} interval of a paired bootstrap for the difference includes 0.",
        headings=("column", "paper", "here"),
        lines=tuple(lines),
    )


def paper_findings(view: PaperView) -> list[str]:
    """What the tables say, in sentences; of what was not measured none."""
    found = [_table_4(view), _formula(view), _tiers(view), _attacks(view)]
    return [sentence for sentence in found if sentence]


def _table_4(view: PaperView) -> str | None:
    before, after = view.row("madry"), view.row("madry-heat")
    if before is None or after is None or before.noisy is None or after.noisy is None:
        return None
    pairs = [np.array(row.noisy.proven_radius) for row in (before, after) if row.noisy]
    medians, means = ([f"{of(radii):.3f}" for radii in pairs] for of in (np.median, np.mean))
    if medians[1] == f"{_most_proven(view, after):.3f}":
        medians[1] += f", the most that n = {after.settings.monte_carlo.n:,} proves,"
    there = TABLE_4["madry"], TABLE_4["madry-heat"]
    pairs_there = zip(*((row.median, row.mean) for row in there), strict=True)
    printed = [f"{one:.3f} to {two:.3f}" for one, two in pairs_there]
    return (
        f"One epoch of (10) after adversarial training takes the median certified radius from {medians[0]} to "
        f"{medians[1]} and the mean from {means[0]} to {means[1]} (paper, on ImageNet-1k, σ = {TABLE_4_SIGMA:g}, "
        f"adversarially trained within ε = 3: {', '.join(printed)})."
    )


def _formula(view: PaperView) -> str | None:
    rows = [row for name in ("heat", "heat-paper", "average") if (row := view.row(name)) and row.noisy]
    if not rows:
        return None
    bounds = [
        f"{int(row.overclaims('l_bound').sum())} of {row.proven_images} images for `{row.system}`" for row in rows
    ]
    control = [f"{int(row.overclaims('average_l_bound').sum())}" for row in rows]
    said = [f"{int(row.overclaims('nominal').sum())} for `{row.system}`" for row in rows]
    served = [f"{int(row.overclaims('served').sum())} for `{row.system}`" for row in rows if row.calibration]
    most = f"{_most_proven(view, rows[0]):.3f} with n = {rows[0].settings.monte_carlo.n:,}"
    return (
        "The L-bound, which the paper takes from one pass, is above what Certify proves, which is at most "
        f"{most}, or of another class, at {', '.join(bounds)}. That of all noisy passes together, for which Theorem 3 "
        f"holds, is so at {', '.join(control)}: that much is of the comparison with votes, not of the single pass. The "
        "radius of Cohen et al. from one pass, σ/2·(Φ⁻¹(p₍₁₎) − Φ⁻¹(p₍₂₎)), is so at "
        f"{', '.join(said)}, the calibrated radius at {', '.join(served) or 'none, since none could be promised'}. The "
        "paper takes radii from votes, and does not compare."
    )


def _most_proven(view: PaperView, row: SystemRow) -> float:
    """The largest radius that Certify can prove with the n of a row."""
    monte_carlo = row.settings.monte_carlo
    return view.sigma * largest_provable(n=monte_carlo.n, alpha=monte_carlo.alpha)


def _tiers(view: PaperView) -> str | None:
    row, proven = view.row("average"), view.row("lipschitz")
    if row is None or row.calibration is None or not row.confirmed:
        return None
    at = np.array([row.confirmed[0].radius])
    certify = certify_curve(row, at)
    assert certify is not None
    ours = f"; the 1-Lipschitz network {100 * served_curve(proven, at).share[0]:.1f} %, proven" if proven else ""
    monte_carlo = row.settings.monte_carlo
    return (
        f"At radius {at[0]:g} one calibrated pass of `average` certifies {100 * served_curve(row, at).share[0]:.1f} %, "
        f"{monte_carlo.n0 + monte_carlo.n:,} noisy passes of its base {100 * certify.share[0]:.1f} %{ours}."
    )


def _attacks(view: PaperView) -> str | None:
    found = [(name, view.attack(name, "PGD")) for name in ("baseline", "heat-paper", "heat", "average", "lipschitz")]
    said = [f"`{name}` {attack.median:.3f}" for name, attack in found if attack and attack.median is not None]
    return f"Median distance of PGD to misclassification: {', '.join(said)}." if said else None


def _ordered(values: dict[str, float]) -> str:
    return ", ".join(sorted(values, key=lambda name: -values[name]))


def _printed(row: PublishedDistances, measure: str, statistic: str) -> float | None:
    pair = {"L-bound": row.l_bound, "PGD": row.pgd, "DDN": row.ddn}[measure]
    found: float | None = None if pair is None else getattr(pair, statistic)
    return found


def _measured(view: PaperView, system: str, measure: str) -> Float64Array | None:
    """The numbers image by image, [N]; the limit stands where an attack found nothing within it."""
    row, attack = view.row(system), view.attack(system, measure)
    if measure == "L-bound":
        return None if row is None else paper_l_bound(row)
    return None if attack is None else np.minimum(attack.finite, attack.settings.limit)


def _order_here(numbers: dict[str, Float64Array], statistic: str) -> str:
    """The systems from the largest to the smallest, on the images that all were measured on."""
    of: Callable[..., Any] = np.median if statistic == "median" else np.mean
    common = min(map(len, numbers.values()))
    cut = {name: values[:common] for name, values in numbers.items()}
    first, *others = sorted(cut, key=lambda name: -float(of(cut[name])))
    text, before = first, first
    for name in others:
        text += f"{' ≈' if _is_close(cut[before], cut[name], of) else ','} {name}"
        before = name
    return text


def _is_close(one: Float64Array, other: Float64Array, of: Callable[..., Any]) -> bool:
    """Whether a paired bootstrap interval for the difference includes 0."""

    def difference(first: Float64Array, second: Float64Array, axis: int) -> Any:
        return of(first, axis=axis) - of(second, axis=axis)

    found = bootstrap(
        (one, other),
        difference,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=BAND_CONFIDENCE,
        method="percentile",
        random_state=0,
    ).confidence_interval
    return bool(found.low <= 0 <= found.high)
