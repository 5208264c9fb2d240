"""Certified accuracy over radius of the models that are served."""

from __future__ import annotations

from heatserve.benchmarks.paper.summary import BAND_CONFIDENCE
from heatserve.benchmarks.report.charts.chart import Axis, Chart
from heatserve.benchmarks.report.curves import share_line
from heatserve.benchmarks.report.document import Beside, Figure, Prose, Section, Table
from heatserve.benchmarks.report.formats import count, in_percent, joined, percentage, plain
from heatserve.benchmarks.report.reported import ReportedResults
from heatserve.export.card import Card
from heatserve.export.card_parts import CertifiedAccuracy


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
