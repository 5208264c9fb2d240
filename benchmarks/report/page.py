"""The report, whole: one HTML page that loads nothing else, the same bytes for the same results."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from heatserve.benchmarks.report.charts.draw import draw, swatch
from heatserve.benchmarks.report.comparisons.section import comparisons_section
from heatserve.benchmarks.report.document import ABSENT, Section
from heatserve.benchmarks.report.first_screen import highlights, verdict
from heatserve.benchmarks.report.published import PUBLICATIONS
from heatserve.benchmarks.report.reported import ReportedResults, read_reported
from heatserve.benchmarks.report.sections.accuracy import served_section
from heatserve.benchmarks.report.sections.attacks import attacks_section
from heatserve.benchmarks.report.sections.kinds import kinds_section
from heatserve.benchmarks.report.sections.line import line_section
from heatserve.benchmarks.report.sections.made import all_made, anchor_of
from heatserve.benchmarks.report.sections.models import audits_section, trained_section
from heatserve.benchmarks.report.sections.paper_figures import figures_section
from heatserve.benchmarks.report.sections.paper_tables import tables_section
from heatserve.benchmarks.report.sections.reliability import reliability_section
from heatserve.benchmarks.report.sections.speed import speed_section
from heatserve.benchmarks.report.sections.tiers import tiers_section
from heatserve.export.audit.page import environment

_SECTIONS: Sequence[Callable[[ReportedResults], Section | None]] = (
    comparisons_section,
    trained_section,
    tables_section,
    figures_section,
    line_section,
    reliability_section,
    served_section,
    kinds_section,
    tiers_section,
    attacks_section,
    speed_section,
    audits_section,
)


def report_page(results: Path, repository: Path) -> str:
    """The page of a folder of results.

    Args:
        results: folder of the JSON files and audit pages.
        repository: Triton model repository, whose cards are shown where the results are about them.

    Raises:
        RecordError: there are no results, or a file is not what its name says.
    """
    reported = read_reported(results, repository)
    script = (Path(__file__).parent / "report.js").read_text().strip()
    sections = [found for make in _SECTIONS if (found := make(reported)) is not None]
    page = environment(Path(__file__).parent)
    page.globals |= {"draw": draw, "swatch": swatch, "anchor_of": anchor_of, "ABSENT": ABSENT}
    return page.get_template("report.html").render(
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        verdict=verdict(reported),
        highlights=highlights(reported),
        sections=sections,
        made=all_made(reported.made),
        absent=reported.absent,
        published=PUBLICATIONS,
        dates=sorted({record.date[:10] for rows in reported.made.values() for _, record in rows}),
    )
