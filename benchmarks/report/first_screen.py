"""What the first screen says: the verdict, and the three figures that tell most."""

from __future__ import annotations

from dataclasses import replace

from heatserve.benchmarks.report.charts.chart import Bar, BarChart
from heatserve.benchmarks.report.document import Highlight
from heatserve.benchmarks.report.evidence import Evidence
from heatserve.benchmarks.report.formats import count, percent, plain, times
from heatserve.benchmarks.report.published import published_seconds
from heatserve.benchmarks.report.sections.attacks import tier_chart
from heatserve.benchmarks.report.sections.kinds import kinds_chart, largest_common


def verdict(evidence: Evidence) -> list[str]:
    """Two or three sentences: what is better, what it costs, and what has to be known before it is relied on."""
    said = []
    record = evidence.kept.kinds
    if record:
        at = largest_common(record)
        rows = {row.way: row for row in record.rows if row.kind == "statistical"}
        one, certify = rows.get("one pass"), rows.get("certify")
        if one and certify:
            said.append(
                f"One forward pass certifies {percent(one.certified[at])} of {one.data.dataset} at radius "
                f"{plain(record.radii[at])}; {count(certify.passes)} noisy passes of Monte Carlo certify "
                f"{percent(certify.certified[at])} and take {times(certify.milliseconds / one.milliseconds)} as long."
            )
    for card in evidence.cards.values():
        if card.calibration:
            said.append(
                f"What one pass promises is a rate, for images like those of the calibration: of {card.model}, at most "
                f"{percent(card.calibration.alpha, 0)} of the radii are too large, with confidence "
                f"{plain(card.calibration.confidence)}. It is no protection against an image that somebody made."
            )
            break
    if evidence.tier_attacks:
        said.append(_about_confirm(evidence))
    return said


def _about_confirm(evidence: Evidence) -> str:
    """What attacks made of confirm, over all models."""
    totals = [record.totals["confirm"] for record in evidence.tier_attacks.values() if "confirm" in record.totals]
    asked, wrong = sum(total.questions for total in totals), sum(total.overclaims for total in totals)
    return (
        f"Where one answer matters, confirm proves it in tens of passes or says that it cannot: under attack "
        f"{count(wrong)} of {count(asked)} of its answers were wrong."
    )


def highlights(evidence: Evidence) -> list[Highlight]:
    """The three figures, as far as there are results for them."""
    found = [_accuracy(evidence), _speed(evidence), _attacked(evidence)]
    return [one for one in found if one is not None][:3]


def _accuracy(evidence: Evidence) -> Highlight | None:
    record = evidence.kept.kinds
    if record is None:
        return None
    at = largest_common(record)
    rows = {row.way: row for row in record.rows if row.kind == "statistical"}
    one, certify = rows.get("one pass"), rows.get("certify")
    if one is None or certify is None:
        return None
    chart = kinds_chart(record)
    return Highlight(
        number=percent(one.certified[at] / certify.certified[at], 0) if certify.certified[at] else "–",
        sentence=f"of what Monte Carlo certifies at radius {plain(record.radii[at])}, one pass certifies",
        chart=replace(chart, lines=[replace(line, band=()) for line in chart.lines]),
        leads_to="kinds-figure",
    )


def _speed(evidence: Evidence) -> Highlight | None:
    record = evidence.kept.latency
    if record is None:
        return None
    bars = []
    for name, found in record.shapes.items():
        published = published_seconds(name)
        if published is None or "stochastic / plain" not in found.ratios:
            continue
        ours = found.ratios["stochastic / plain"].p50
        bars.append(Bar(name, ours, times(ours), f"{name}: n₀ noisy passes take {times(ours)} as long as one pass", 1))
        theirs = published.ratio
        bars.append(Bar("the paper, on its CPU", theirs, times(theirs), f"The paper, Table 2: {times(theirs)}", 0))
    if not bars:
        return None
    return Highlight(
        number=bars[0].shown,
        sentence=f"faster than n₀ noisy passes is one pass on a CPU ({bars[0].name}); the paper had {bars[1].shown}",
        chart=BarChart(label="n₀ noisy passes divided by one pass, ours and the paper’s", unit="×", bars=bars[:6]),
        leads_to="latency-figure",
    )


def _attacked(evidence: Evidence) -> Highlight | None:
    if not evidence.tier_attacks:
        return None
    name, record = next(iter(evidence.tier_attacks.items()))
    confirm = record.totals.get("confirm")
    if confirm is None:
        return None
    return Highlight(
        number=f"{count(confirm.overclaims)} of {count(confirm.questions)}",
        sentence=f"proofs of confirm were wrong under attack ({name}); one pass is no defence",
        chart=tier_chart(record),
        leads_to=f"attack-tiers-{record.model}",
    )
