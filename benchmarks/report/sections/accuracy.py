"""Certified accuracy over radius: of each system as the paper's Figure 1 has it, and of the models that are served."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from heatserve.benchmarks.cifar10.tables import largest_radius
from heatserve.benchmarks.paper.summary import BAND_CONFIDENCE, curve_of
from heatserve.benchmarks.records.cifar10 import Cifar10Record, Cifar10Row
from heatserve.benchmarks.report.charts.chart import Axis, Chart
from heatserve.benchmarks.report.curves import leaders, share_line
from heatserve.benchmarks.report.document import Beside, Block, Figure, Prose, Section, Table
from heatserve.benchmarks.report.formats import count, in_percent, joined, percentage, plain
from heatserve.benchmarks.report.images import named, style_of
from heatserve.benchmarks.report.reported import ReportedResults
from heatserve.export.card import Card
from heatserve.export.card_parts import CertifiedAccuracy

_SHOWN = ("heat", "heat-paper", "smoothadv", "noise", "baseline", "average", "madry", "madry-heat")
"""Systems whose curves are drawn."""


def served_section(reported: ReportedResults) -> Section | None:
    """What one pass serves, of that what Certify backs, what a formula says, and what Certify proves."""
    figures = [_served(name, card) for name, card in reported.cards.items() if card.evaluation]
    if not figures:
        return None
    return Section(
        "served",
        "What is served, and what is proven",
        [
            Prose(
                "The nominal radius is the formula of Cohen et al., applied to the probabilities of one pass. "
                "Calibration corrects it, on the very bytes that are served, until a stated share of the radii at most "
                "overclaims."
            ),
            Beside(figures),
        ],
    )


def _served(name: str, card: Card) -> Figure:
    found = card.evaluation
    assert found is not None
    shares, certify = found.certified_accuracy, found.monte_carlo
    over = found.calibrated
    columns = _columns(shares, certify.heading)
    promise = (
        "no promise"
        if card.calibration is None
        else f"promised: at most {percentage(card.calibration.alpha, 0)}, confidence "
        f"{plain(card.calibration.confidence)}"
    )
    return Figure(
        name=f"served-{name}",
        title=f"{name}: certified accuracy on its card",
        chart=served_chart(name, card),
        take_away=(
            f"Calibrated, {count(over.overclaims)} of {count(over.positive)} positive radii overclaim ({promise}); of "
            f"the nominal radii {count(found.nominal.overclaims)} of {count(found.nominal.positive)} do."
        ),
        promise=(
            f"{count(found.data.images)} images of split “{found.data.split}” of {found.data.dataset}, compared with "
            f"{certify.described}, σ = {plain(card.sigma)}. Under “served” an overclaim whose class is right counts, "
            f"under “backed” none does. Band: exact, confidence {BAND_CONFIDENCE:g}."
        ),
        numbers=Table(
            caption=f"{name}: certified accuracy on its card, in percent",
            headings=["r ≥", *columns],
            rows=[
                [plain(radius), *(in_percent(values[i]) for values, _ in columns.values())]
                for i, radius in enumerate(shares.radii)
            ],
            note=f"From the certificate card of {name}, graph {card.graph_sha256[:12]}, {card.date[:10]}.",
        ),
    )


def served_chart(name: str, card: Card) -> Chart:
    """Certified accuracy over radius on a card that has figures: nominal, by Certify, served, and backed by Certify."""
    found = card.evaluation
    assert found is not None  # the caller chose the card by that
    shares = found.certified_accuracy
    columns = _columns(shares, found.monte_carlo.heading)
    lines = [
        share_line(
            what, shares.radii, values, style=style, images=found.data.images if what.startswith("served") else None
        )
        for what, (values, style) in columns.items()
    ]
    return Chart(
        label=f"Certified accuracy of {name} over radius: {joined(columns)}",
        x=Axis(label="L2 radius, pixels in [0,1]", low=0, high=max(shares.radii) or 1),
        y=Axis(label="certified accuracy", low=0, high=1, percent=True),
        lines=lines,
    )


def _columns(shares: CertifiedAccuracy, certify: str) -> dict[str, tuple[tuple[float, ...], int]]:
    found = {
        "nominal, no promise": (shares.nominal, 2),
        certify: (shares.monte_carlo, 0),
        "served by one pass": (shares.single_pass, 1),
        "L-bound, served": (shares.l_bound, 4),
    }
    if shares.backed is not None:
        found["backed by Certify"] = (shares.backed, 3)
    return found


def experiment_figures(record: Cifar10Record, without: Collection[float] = ()) -> list[Block]:
    """Figure 1 of the rows of `experiment cifar10`: by Certify beside one calibrated pass, at each σ but some."""
    sigmas = sorted({row.sigma for row in record.rows} - {*without})
    return [
        Beside([_by_certify(record, sigma), _by_one_pass(record, sigma)]) for sigma in sigmas if _rows(record, sigma)
    ]


def _rows(record: Cifar10Record, sigma: float) -> list[Cifar10Row]:
    """One row of each system: that with the smallest n, which all of them have."""
    rows: dict[str, Cifar10Row] = {}
    for row in sorted(record.rows, key=lambda row: row.n):
        if row.sigma == sigma and row.system in _SHOWN:
            rows.setdefault(row.system, row)
    return [rows[name] for name in _SHOWN if name in rows]


def _by_certify(record: Cifar10Record, sigma: float) -> Figure:
    return _systems(record, sigma, "monte_carlo", "Certify", "figure-1-certify")


def _by_one_pass(record: Cifar10Record, sigma: float) -> Figure:
    return _systems(record, sigma, "single_pass", "one calibrated pass", "figure-1-pass")


def _systems(record: Cifar10Record, sigma: float, way: str, described: str, name: str) -> Figure:
    rows = _rows(record, sigma)
    radii = [radius for radius in rows[0].evaluation.certified_accuracy.radii if radius <= largest_radius(rows[0])]
    shares = {row.system: getattr(row.evaluation.certified_accuracy, way)[: len(radii)] for row in rows}
    lines = [
        share_line(named(row.system), radii, shares[row.system], style=style_of(row.system), images=row.images)
        for row in rows
    ]
    at = radii.index(sigma) if sigma in radii else len(radii) // 2
    curves = {
        row.system: curve_of(np.rint(np.multiply(shares[row.system], row.images)), row.images, radii) for row in rows
    }
    certify = rows[0].evaluation.monte_carlo
    return Figure(
        name=f"{name}-{plain(sigma)}".replace(".", "-"),
        title=f"CIFAR-10, σ = {plain(sigma)}, by {described}",
        chart=Chart(
            label=f"Certified accuracy over radius by {described}, CIFAR-10, σ = {plain(sigma)}",
            x=Axis(label="L2 radius, pixels in [0,1]", low=0, high=max(radii)),
            y=Axis(label="certified accuracy", low=0, high=1, percent=True),
            lines=lines,
        ),
        take_away=f"At radius {plain(radii[at])}, by {described}: {leaders(curves, at, 'certifies most')}.",
        promise=(
            f"{count(rows[0].images)} images of split “test”; {certify.described}. "
            + (
                "Each pass is calibrated by itself, an overclaim whose class is right counts as certified. "
                if way == "single_pass"
                else "Curves end where so many votes can prove no radius. "
            )
            + f"Bands: exact, confidence {BAND_CONFIDENCE:g} at each radius."
        ),
        numbers=Table(
            caption=f"CIFAR-10, σ = {plain(sigma)}: certified accuracy by {described}, in percent",
            headings=["system", *(f"r = {plain(radius)}" for radius in radii)],
            rows=[[named(row.system), *(in_percent(share) for share in shares[row.system])] for row in rows],
            sources=["cifar10.json"],
        ),
    )
