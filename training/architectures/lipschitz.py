"""Networks whose Lipschitz constant (L2) is at most 1 by construction: convex potential layers and MaxMin.

The arrangement follows Prach et al., "1-Lipschitz Layers Compared" (CVPR 2024): five stages of layers, each followed by
a choice of the first half of the channels and a space-to-depth step, both of which have the constant 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvexPotential(nn.Module):
    """x − 2/σ̂²·Wᵀ ReLU(Wx + b) for a zero-padded convolution W (Meunier et al. 2022): 1-Lipschitz where σ̂ ≥ ‖W‖₂.

    σ̂ is an estimate, which is below ‖W‖₂ by a little: a step of power iteration with every forward pass of the
    training. What is exported has a bound in its place, which is not below (`heatserve.export.lipschitz`).
    """

    def __init__(self, channels: int, kernel_size: int, size: int) -> None:
        """W has as many channels out as in; images of `size`×`size` pixels come in."""
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(channels, channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(channels))
        nn.init.xavier_normal_(self.kernel)
        width = 1 / math.sqrt(channels * kernel_size**2)
        nn.init.uniform_(self.bias, -width, width)
        self.padding = kernel_size // 2
        self.size = size
        self.direction: Tensor
        self.register_buffer("direction", _unit(torch.randn(1, channels, size, size)))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.direction.shape[1:]:  # the estimate is one for this size
            raise ValueError(f"expected images {list(self.direction.shape[1:])} in this layer, got {list(x.shape[1:])}")
        hidden = functional.relu(functional.conv2d(x, self.kernel, self.bias, padding=self.padding))
        return x - self._step() * functional.conv_transpose2d(hidden, self.kernel, padding=self.padding)

    def _step(self) -> Tensor:
        with torch.autocast(self.kernel.device.type, enabled=False):
            with torch.no_grad():
                out = _unit(self._apply_kernel(self.direction))
                if self.training:
                    back = functional.conv_transpose2d(out, self.kernel, padding=self.padding)
                    self.direction.copy_(_unit(back))
                    out = _unit(self._apply_kernel(self.direction))
            norm = (self._apply_kernel(self.direction.clone()) * out).sum()
            return 2 / (norm**2 + 1e-6)

    def _apply_kernel(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, padding=self.padding)


def _unit(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x)
    return x / norm.clamp(min=1e-12)


class MaxMin(nn.Module):
    """The larger and the smaller of two halves of the channels (Anil et al. 2019): 1-Lipschitz, keeps gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(_sorted(*x.chunk(2, dim=1)), dim=1)


class _Sorted(torch.autograd.Function):
    """Torch's own derivative of maximum and minimum looks for ties, which takes a third of a training step on a CPU."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(first > second)
        return torch.maximum(first, second), torch.minimum(first, second)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        of_larger, of_smaller = gradients
        (in_order,) = ctx.saved_tensors
        return torch.where(in_order, of_larger, of_smaller), torch.where(in_order, of_smaller, of_larger)


def _sorted(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = _Sorted.apply(first, second)  # type: ignore[no-untyped-call]
    return found


class FirstChannels(nn.Module):
    """The first channels, and zeros where there are fewer than that: 1-Lipschitz."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        missing = self.channels - x.shape[1]
        return x[:, : self.channels] if missing <= 0 else functional.pad(x, (0, 0, 0, 0, 0, missing))


class LipschitzNetwork(nn.Sequential):
    """Images [N, C, size, size] → logits [N, K], with ‖f(x) − f(y)‖₂ ≤ ‖x − y‖₂, but for the estimates of norms."""

    def __init__(self, width: int, layers: int, size: int, num_classes: int, *, last_layers: int = 1) -> None:
        """Stages of `layers` layers, the first with `width` channels, which double as the size halves down to 1.

        A space-to-depth step comes first: a stage at the full size costs as much as all others together, and more
        epochs of the others bring more. The last stage, whose images are of one pixel, has `last_layers`.
        """
        size //= 2
        found: list[nn.Module] = [nn.PixelUnshuffle(2), FirstChannels(width), ConvexPotential(width, 1, size), MaxMin()]
        while size > 1:
            for _ in range(layers):
                found += [ConvexPotential(width, 3 if size > 2 else 1, size), MaxMin()]
            found += [FirstChannels(width // 2), nn.PixelUnshuffle(2)]
            width, size = 2 * width, size // 2
        for _ in range(last_layers - 1):
            found += [ConvexPotential(width, 1, 1), MaxMin()]
        super().__init__(*found, ConvexPotential(width, 1, 1), nn.Flatten(), FirstLogits(num_classes))


class FirstLogits(nn.Module):
    """The first numbers of each image's: 1-Lipschitz."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.classes]


def lipschitz_network(width: int, layers: int, size: int, *, last_layers: int = 1) -> Callable[[int, int], nn.Module]:
    """A function of the number of classes and of channels, as `ARCHITECTURES` has them."""
    return lambda num_classes, _channels: LipschitzNetwork(width, layers, size, num_classes, last_layers=last_layers)
