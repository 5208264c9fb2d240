"""An audit of a served model: does the promise on its card hold on images and noise that did not make it?

`audit` measures and judges; `report` prints, `page` writes one HTML page with the figures that `figures` draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.export.audit.audit import Answers, Audit, Measured, audit_model, unused_seed, unused_test_images
    from heatserve.export.audit.page import audit_page
    from heatserve.export.audit.report import audit_report

__all__ = [
    "Answers",
    "Audit",
    "Measured",
    "audit_model",
    "audit_page",
    "audit_report",
    "unused_seed",
    "unused_test_images",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Answers": "heatserve.export.audit.audit",
        "Audit": "heatserve.export.audit.audit",
        "Measured": "heatserve.export.audit.audit",
        "audit_model": "heatserve.export.audit.audit",
        "audit_page": "heatserve.export.audit.page",
        "audit_report": "heatserve.export.audit.report",
        "unused_seed": "heatserve.export.audit.audit",
        "unused_test_images": "heatserve.export.audit.audit",
    },
)
