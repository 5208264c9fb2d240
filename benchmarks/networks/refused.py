"""Networks that no served graph can be: each is refused when it is exported, and the reason names what in it is why."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

REFUSED_SHAPE = (3, 8, 8)
"""C, H, W of their images."""


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 10)

    def logits(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x.flatten(1))
        return found


class _BranchOnPixels(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0.5:
            x = 1 - x
        return self.logits(x)


class _AsManySteps(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x.sum().item())):
            x = x * 0.5
        return self.logits(x)


class _BranchOnBatch(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x) if len(x) > 1 else self.logits(1 - x)


class _LoopOverImages(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.linear(image.flatten()) for image in x])


class _FixedBatch(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x.reshape(2, 3, 8, 8))


class _SeveralOutputs(_Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits(x), x.mean((2, 3))


class _NamedOutputs(_Linear):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.logits(x), "features": x.mean((2, 3))}


class _ComplexLogits(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x).to(torch.complex64)


class _MissingOperator(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x + torch.linalg.svdvals(x)[..., None])


class _RandomNumbers(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.logits(x), 0.5, training=True)


class _OtherImages(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x / x.max())


class _OtherWhenTraced(_Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.logits(1 - x if torch.compiler.is_compiling() else x)


REFUSED: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "a branch on the pixels": _BranchOnPixels,
        "a loop, as often as the pixels say": _AsManySteps,
        "a branch on the size of the batch": _BranchOnBatch,
        "a loop over the images": _LoopOverImages,
        "a constant size of batch": _FixedBatch,
        "several outputs": _SeveralOutputs,
        "outputs by name": _NamedOutputs,
        "complex logits": _ComplexLogits,
        "an operator that ONNX lacks": _MissingOperator,
        "random numbers": _RandomNumbers,
        "a maximum over all images of the batch": _OtherImages,
        "another answer while it is traced": _OtherWhenTraced,
    }
)
"""What each has, and its class."""
