"""The networks, by reference: built in, of timm or torchvision by name, or made by a function of the user's own.

    from heatserve.training import build_network, trust_code

    network = build_network("timm:vit_tiny_patch16_224?img_size=32", num_classes=10, input_shape=(3, 32, 32), …)
    trust_code("nets.py:build")  # imports and runs it
    network = build_network("nets.py:build?width=2", …)

Importing this package needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heatserve._lazy import lazy_names

if TYPE_CHECKING:
    from heatserve.training.architectures.builtin import ARCHITECTURES
    from heatserve.training.architectures.errors import ArchitectureError
    from heatserve.training.architectures.network import (
        ImageClassifier,
        architecture_names,
        build_network,
        tensor_shapes,
    )
    from heatserve.training.architectures.own_code import ChosenArchitecture, choose_architecture, trust_code

__all__ = [
    "ARCHITECTURES",
    "ArchitectureError",
    "ChosenArchitecture",
    "ImageClassifier",
    "architecture_names",
    "build_network",
    "choose_architecture",
    "tensor_shapes",
    "trust_code",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ARCHITECTURES": "heatserve.training.architectures.builtin",
        "ArchitectureError": "heatserve.training.architectures.errors",
        "ChosenArchitecture": "heatserve.training.architectures.own_code",
        "ImageClassifier": "heatserve.training.architectures.network",
        "architecture_names": "heatserve.training.architectures.network",
        "build_network": "heatserve.training.architectures.network",
        "choose_architecture": "heatserve.training.architectures.own_code",
        "tensor_shapes": "heatserve.training.architectures.network",
        "trust_code": "heatserve.training.architectures.own_code",
    },
)
