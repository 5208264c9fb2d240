"""An audit as one HTML page that loads nothing else: figures are inside, and it can be mailed, archived or printed."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from heatserve.certification.audit import POWER
from heatserve.certification.noise import source_of
from heatserve.export.audit.audit import Audit, Measured
from heatserve.export.audit.figures import accuracy_figure, reliability_figure
from heatserve.export.audit.report import accuracy_rows, findings, headline, percent, rates, share_of
from heatserve.export.calibration.report import ACCURACY_CAPTION

_TEMPLATE = "page.html"


def audit_page(audit: Audit) -> str:
    """The whole page: verdict, promise, figures with the tables that they show, groups, and how it was made."""
    return render(
        _TEMPLATE,
        audit=audit,
        passed=audit.verdict.passed,
        headline=headline(audit),
        findings=findings(audit),
        power=POWER,
        **_shown(audit.measured),
    )


def render(template: str, **values: object) -> str:
    """A page of a template beside this file."""
    pages = environment()
    pages.filters |= {"percent": percent, "share_of": share_of}
    return pages.get_template(template).render(**values)


def environment(*folders: Path) -> Environment:
    """What renders pages that loads templates from these folders, and the style sheet and layout beside this file."""
    return Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(measured: Measured | None) -> dict[str, object]:
    """Rows and figures of what was measured; nothing where nothing was."""
    if measured is None:
        return {}
    return {
        "rates": rates(measured),
        "sampling": source_of(measured.monte_carlo.sampling).described,
        "accuracy_rows": accuracy_rows(measured),
        "accuracy_caption": ACCURACY_CAPTION,
        "accuracy_figure": _data_uri(
            accuracy_figure(measured.certified_accuracy, reference=measured.monte_carlo.heading)
        ),
        "reliability_figure": _data_uri(reliability_figure(measured.answers)),
        "radius_groups": [group for group in measured.groups if group.by == "radius"],
        "class_groups": [group for group in measured.groups if group.by != "radius"],
    }


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
