"""torchvision, imported late and only where it is needed; digits and the CIFAR ResNets never touch it."""

from __future__ import annotations

import importlib
from typing import Any

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None


def import_torchvision(module: str) -> Any:
    """Import `torchvision.<module>`, also where torchvision lacks its compiled operators.

    A torchvision built for another torch (CUDA wheels beside a CPU torch, for example) cannot load its C++
    library, and `import torchvision` then stops at "operator torchvision::nms does not exist". Nothing here
    detects objects, so declaring the two operators it asks for, without implementing them, is enough.
    """
    global _library
    try:
        return importlib.import_module(f"torchvision.{module}")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        # Kept in a global: the declarations are withdrawn when the library object dies.
        _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            _library.define(schema)  # type: ignore[no-untyped-call]
        return importlib.import_module(f"torchvision.{module}")
