"""Data, architectures, methods and loops: from images to a checkpoint.

    from heatserve.training import HeatParameters, load_data, train_baseline, train_from

    digits = load_data("digits", "train")
    baseline = train_baseline(digits, "digits_cnn", out=Path("baseline.safetensors"))
    smoothed = train_from(baseline, digits, HeatParameters(sigma=0.25), out=Path("heat.safetensors"))

`data` has the images and their splits, `methods` the losses and their parameters, `loop` the optimisation; what most
users need of them is here, too. What is trained here is a checkpoint: one safetensors file that says how to rebuild the
network and how it came to be.

Importing this package needs no torch: the command line of a machine that only serves imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.training.architectures.builtin import ARCHITECTURES
    from heatserve.training.architectures.errors import ArchitectureError
    from heatserve.training.architectures.network import ImageClassifier, build_network
    from heatserve.training.architectures.own_code import trust_code
    from heatserve.training.checkpoint import (
        Checkpoint,
        CheckpointError,
        CheckpointMetadata,
        base_path,
        load_base,
        load_checkpoint,
        save_checkpoint,
    )
    from heatserve.training.data.decoding import decode
    from heatserve.training.data.errors import DataError
    from heatserve.training.data.splits import ImageData, load_data
    from heatserve.training.evaluate import accuracy
    from heatserve.training.loop.fitting import Run
    from heatserve.training.loop.optimisation import Optimisation
    from heatserve.training.methods.parameters import (
        AverageParameters,
        HeatParameters,
        MadryParameters,
        NoiseParameters,
        SmoothAdvParameters,
    )
    from heatserve.training.recipes import baseline_optimisation, fine_tuning, lipschitz_recipe
    from heatserve.training.train import train_baseline, train_from, train_lipschitz
    from heatserve.training.weights import Diagnosis, MismatchError, diagnose, import_weights

__all__ = [
    "ARCHITECTURES",
    "ArchitectureError",
    "AverageParameters",
    "Checkpoint",
    "CheckpointError",
    "CheckpointMetadata",
    "DataError",
    "Diagnosis",
    "HeatParameters",
    "ImageClassifier",
    "ImageData",
    "MadryParameters",
    "MismatchError",
    "NoiseParameters",
    "Optimisation",
    "Run",
    "SmoothAdvParameters",
    "accuracy",
    "base_path",
    "baseline_optimisation",
    "build_network",
    "decode",
    "diagnose",
    "fine_tuning",
    "import_weights",
    "lipschitz_recipe",
    "load_base",
    "load_checkpoint",
    "load_data",
    "save_checkpoint",
    "train_baseline",
    "train_from",
    "train_lipschitz",
    "trust_code",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ARCHITECTURES": "heatserve.training.architectures.builtin",
        "ArchitectureError": "heatserve.training.architectures.errors",
        "AverageParameters": "heatserve.training.methods.parameters",
        "Checkpoint": "heatserve.training.checkpoint",
        "CheckpointError": "heatserve.training.checkpoint",
        "CheckpointMetadata": "heatserve.training.checkpoint",
        "DataError": "heatserve.training.data.errors",
        "Diagnosis": "heatserve.training.weights",
        "HeatParameters": "heatserve.training.methods.parameters",
        "ImageClassifier": "heatserve.training.architectures.network",
        "ImageData": "heatserve.training.data.splits",
        "MadryParameters": "heatserve.training.methods.parameters",
        "MismatchError": "heatserve.training.weights",
        "NoiseParameters": "heatserve.training.methods.parameters",
        "Optimisation": "heatserve.training.loop.optimisation",
        "Run": "heatserve.training.loop.fitting",
        "SmoothAdvParameters": "heatserve.training.methods.parameters",
        "accuracy": "heatserve.training.evaluate",
        "base_path": "heatserve.training.checkpoint",
        "baseline_optimisation": "heatserve.training.recipes",
        "build_network": "heatserve.training.architectures.network",
        "decode": "heatserve.training.data.decoding",
        "diagnose": "heatserve.training.weights",
        "fine_tuning": "heatserve.training.recipes",
        "import_weights": "heatserve.training.weights",
        "lipschitz_recipe": "heatserve.training.recipes",
        "load_base": "heatserve.training.checkpoint",
        "load_checkpoint": "heatserve.training.checkpoint",
        "load_data": "heatserve.training.data.splits",
        "save_checkpoint": "heatserve.training.checkpoint",
        "train_baseline": "heatserve.training.train",
        "train_from": "heatserve.training.train",
        "train_lipschitz": "heatserve.training.train",
        "trust_code": "heatserve.training.architectures.own_code",
    },
)
