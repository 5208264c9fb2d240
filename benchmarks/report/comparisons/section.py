"""All comparisons."""

from __future__ import annotations

from heatserve.benchmarks.report.comparisons.with_lipschitz import with_lipschitz
from heatserve.benchmarks.report.comparisons.with_monte_carlo import with_monte_carlo
from heatserve.benchmarks.report.comparisons.with_paper import with_paper
from heatserve.benchmarks.report.comparisons.with_rrise import with_rrise
from heatserve.benchmarks.report.document import Prose, Section
from heatserve.benchmarks.report.reported import ReportedResults


def comparisons_section(reported: ReportedResults) -> Section | None:
    """All four comparisons, as far as the results support them."""
    found = [
        with_paper(reported),
        with_rrise(reported),
        with_lipschitz(reported),
        with_monte_carlo(reported),
    ]
    judged = [one for one in found if one is not None]
    if not judged:
        return None
    start = Prose(
        "Each sentence stands on the side that its numbers decide. Numbers of others are those that they published, "
        "on their networks and machines; nothing of theirs was run here unless a sentence says so."
    )
    return Section("words", "In plain words: better and worse", [start, *judged])
