"""From a checkpoint to a model version that Triton serves, with a certificate card: export, calibration, audit.

    from heatserve.export import Certifier, MonteCarlo, calibrate_model, held_out, open_model

    model = open_model(Path("model_repository"), "digits")
    calibrated = calibrate_model(
        model,
        *held_out(model).parts("digits", images=497, test_images=200),
        alpha=0.05,
        delta=0.05,
        certifier=Certifier(MonteCarlo(n0=100, n=1000, alpha=0.001, seed=0)),
    )

What is calibrated and audited is what is served, byte for byte. Only `export_checkpoint` and the functions that load
a data set, `sample`, `sample_for` and `held_out`, need torch. The packages within, each of which imports only those
before it: `graph`, `repository`, `runtime`, `calibration` and `audit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.export.audit.audit import Audit, audit_model
    from heatserve.export.audit.page import audit_page
    from heatserve.export.calibration.calibrate import calibrate_model
    from heatserve.export.calibration.certifier import Certifier
    from heatserve.export.calibration.dataset import certify_dataset, on_ray
    from heatserve.export.calibration.held_out import HeldOut, held_out
    from heatserve.export.calibration.sampling import sample, sample_for
    from heatserve.export.card import Card, CardError, read_card, verify_card
    from heatserve.export.card_parts import MonteCarlo
    from heatserve.export.exporting import export_checkpoint
    from heatserve.export.graph.imported.errors import OnnxFileError
    from heatserve.export.graph.imported.pixels import Preprocessing
    from heatserve.export.graph.tracing import NotExportableError
    from heatserve.export.images import LabelledImages, LabelledPictures, SampledImages
    from heatserve.export.importing import import_onnx
    from heatserve.export.repository.layout import ModelVersion, open_model, open_models
    from heatserve.export.repository.publishing import publish
    from heatserve.export.runtime.served import open_served
    from heatserve.export.variants import Variant

__all__ = [
    "Audit",
    "Card",
    "CardError",
    "Certifier",
    "HeldOut",
    "LabelledImages",
    "LabelledPictures",
    "ModelVersion",
    "MonteCarlo",
    "NotExportableError",
    "OnnxFileError",
    "Preprocessing",
    "SampledImages",
    "Variant",
    "audit_model",
    "audit_page",
    "calibrate_model",
    "certify_dataset",
    "export_checkpoint",
    "held_out",
    "import_onnx",
    "on_ray",
    "open_model",
    "open_models",
    "open_served",
    "publish",
    "read_card",
    "sample",
    "sample_for",
    "verify_card",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Audit": "heatserve.export.audit.audit",
        "Card": "heatserve.export.card",
        "CardError": "heatserve.export.card",
        "Certifier": "heatserve.export.calibration.certifier",
        "HeldOut": "heatserve.export.calibration.held_out",
        "LabelledImages": "heatserve.export.images",
        "LabelledPictures": "heatserve.export.images",
        "ModelVersion": "heatserve.export.repository.layout",
        "MonteCarlo": "heatserve.export.card_parts",
        "NotExportableError": "heatserve.export.graph.tracing",
        "OnnxFileError": "heatserve.export.graph.imported.errors",
        "Preprocessing": "heatserve.export.graph.imported.pixels",
        "SampledImages": "heatserve.export.images",
        "Variant": "heatserve.export.variants",
        "audit_model": "heatserve.export.audit.audit",
        "audit_page": "heatserve.export.audit.page",
        "calibrate_model": "heatserve.export.calibration.calibrate",
        "certify_dataset": "heatserve.export.calibration.dataset",
        "export_checkpoint": "heatserve.export.exporting",
        "held_out": "heatserve.export.calibration.held_out",
        "import_onnx": "heatserve.export.importing",
        "on_ray": "heatserve.export.calibration.dataset",
        "open_model": "heatserve.export.repository.layout",
        "open_models": "heatserve.export.repository.layout",
        "open_served": "heatserve.export.runtime.served",
        "publish": "heatserve.export.repository.publishing",
        "read_card": "heatserve.export.card",
        "sample": "heatserve.export.calibration.sampling",
        "sample_for": "heatserve.export.calibration.sampling",
        "verify_card": "heatserve.export.card",
    },
)
