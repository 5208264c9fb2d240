"""Other people's weights: a file of tensors becomes a checkpoint, and is tried on test images.

    from heatserve.training.weights import diagnose, import_weights

    out = import_weights(Path("resnet18.pth"), "cifar_resnet18", dataset="cifar10", …, out=Path("resnet18.safetensors"))
    found = diagnose(load_checkpoint(out), load_data("cifar10", "test", root))

Importing this package needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.training.weights.diagnosis import Diagnosis, diagnose
    from heatserve.training.weights.errors import MismatchError
    from heatserve.training.weights.importing import import_weights
    from heatserve.training.weights.matching import Match, Misfit
    from heatserve.training.weights.unwrapping import StateDict, read_state_dict

__all__ = [
    "Diagnosis",
    "Match",
    "Misfit",
    "MismatchError",
    "StateDict",
    "diagnose",
    "import_weights",
    "read_state_dict",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Diagnosis": "heatserve.training.weights.diagnosis",
        "Match": "heatserve.training.weights.matching",
        "Misfit": "heatserve.training.weights.matching",
        "MismatchError": "heatserve.training.weights.errors",
        "StateDict": "heatserve.training.weights.unwrapping",
        "diagnose": "heatserve.training.weights.diagnosis",
        "import_weights": "heatserve.training.weights.importing",
        "read_state_dict": "heatserve.training.weights.unwrapping",
    },
)
