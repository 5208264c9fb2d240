"""Calibration of what is served: its answers are compared with Certify, and the radii that Certify backs are kept.

`calibrate` publishes the next version of a model with a promise, and `attempts` keeps account of every attempt to do
so; `certifier` runs Certify on the images of a data set; `ledger` keeps what it found for each; `evaluate` makes the
figures of the card, `other_inputs` those of inputs that it was not made for; `compare` compares a variant with its
model; `dataset` certifies a whole data set, here or on a cluster; `sampling` chooses the images, `held_out` those that
training never saw; `report` prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.export.calibration.attempts import Attempts, AttemptsError, read_attempts
    from heatserve.export.calibration.calibrate import calibrate_model, servable_radii
    from heatserve.export.calibration.certifier import Certifier, CertifyExecutor
    from heatserve.export.calibration.compare import Comparison, compare_variant
    from heatserve.export.calibration.dataset import certify_dataset, on_ray
    from heatserve.export.calibration.evaluate import ComparedAnswers, compare_with_certify
    from heatserve.export.calibration.held_out import HeldOut, held_out
    from heatserve.export.calibration.ledger import CertifyRecipe, LedgerEntry, LedgerError
    from heatserve.export.calibration.sampling import check_classes, sample, sample_for

__all__ = [
    "Attempts",
    "AttemptsError",
    "Certifier",
    "CertifyExecutor",
    "CertifyRecipe",
    "ComparedAnswers",
    "Comparison",
    "HeldOut",
    "LedgerEntry",
    "LedgerError",
    "calibrate_model",
    "certify_dataset",
    "check_classes",
    "compare_variant",
    "compare_with_certify",
    "held_out",
    "on_ray",
    "read_attempts",
    "sample",
    "sample_for",
    "servable_radii",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Attempts": "heatserve.export.calibration.attempts",
        "AttemptsError": "heatserve.export.calibration.attempts",
        "Certifier": "heatserve.export.calibration.certifier",
        "CertifyExecutor": "heatserve.export.calibration.certifier",
        "CertifyRecipe": "heatserve.export.calibration.ledger",
        "ComparedAnswers": "heatserve.export.calibration.evaluate",
        "Comparison": "heatserve.export.calibration.compare",
        "HeldOut": "heatserve.export.calibration.held_out",
        "LedgerEntry": "heatserve.export.calibration.ledger",
        "LedgerError": "heatserve.export.calibration.ledger",
        "calibrate_model": "heatserve.export.calibration.calibrate",
        "certify_dataset": "heatserve.export.calibration.dataset",
        "check_classes": "heatserve.export.calibration.sampling",
        "compare_variant": "heatserve.export.calibration.compare",
        "compare_with_certify": "heatserve.export.calibration.evaluate",
        "held_out": "heatserve.export.calibration.held_out",
        "on_ray": "heatserve.export.calibration.dataset",
        "read_attempts": "heatserve.export.calibration.attempts",
        "sample": "heatserve.export.calibration.sampling",
        "sample_for": "heatserve.export.calibration.sampling",
        "servable_radii": "heatserve.export.calibration.calibrate",
    },
)
