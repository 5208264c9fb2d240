"""The audit of a deterministic certificate as one HTML page that loads nothing else."""

from __future__ import annotations

from heatserve.export.audit.page import render
from heatserve.export.audit.proven.audit import ProvenAudit
from heatserve.export.audit.proven.report import (
    LAYER_HEADINGS,
    MEANING,
    SEARCH_CAPTION,
    SEARCH_HEADINGS,
    certified_rows,
    layer_rows,
    proven_findings,
    proven_headline,
    search_rows,
)


def proven_page(audit: ProvenAudit) -> str:
    """The whole page: verdict, promise, attacks, layers, and how it was made."""
    return render(
        "proven.html",
        audit=audit,
        card=audit.card,
        headline=proven_headline(audit),
        findings=proven_findings(audit),
        passed=audit.verdict.passed,
        meaning=MEANING,
        searches=(SEARCH_HEADINGS, search_rows(audit), SEARCH_CAPTION),
        layers=(LAYER_HEADINGS, layer_rows(audit), "‖W‖₂ of each layer x − step·Wᵀ ReLU(Wx + b)"),
        certified=(
            ("r ≥", "certified"),
            certified_rows(audit),
            "Share of images with the right class and at least this radius (L2, pixels in [0,1])",
        ),
    )
