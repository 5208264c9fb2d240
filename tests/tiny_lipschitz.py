"""A small 1-Lipschitz digit classifier, trained for a moment and exported, whose certificate is deterministic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from heatserve.export.exporting import export_checkpoint
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.variants import Variant
from heatserve.training.data.splits import load_data
from heatserve.training.recipes import lipschitz_recipe
from heatserve.training.train import train_lipschitz


def train_tiny_lipschitz(out: Path) -> Path:
    """Train it for a second: enough for positive radii."""
    architecture, optimisation = lipschitz_recipe("digits", "cpu")
    short = replace(optimisation, epochs=2, cpu_threads=1)
    return train_lipschitz(load_data("digits", "train"), architecture, out=out, optimisation=short)


def export_tiny_lipschitz(checkpoint: Path, repository: Path) -> ModelVersion:
    """Export it as `proven`, and with UINT8 input as `proven8`; the first is given back."""
    export_checkpoint(checkpoint, repository=repository, name="proven8", variant=Variant("UINT8"))
    return export_checkpoint(checkpoint, repository=repository, name="proven")
