"""Networks whose Lipschitz constant (L2) is at most 1 by construction: convex potential layers and MaxMin.

The arrangement follows Prach et al., "1-Lipschitz Layers Compared" (CVPR 2024): five stages of layers, each followed by
a choice of the first half of the channels and a space-to-depth step, both of which have the constant 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from heatserve.certification.operator_norm import convolution_norm


class ConvexPotential(nn.Module):
    """x − 2/σ̄²·Wᵀ ReLU(Wx + b) for a zero-padded convolution W (Meunier et al. 2022): 1-Lipschitz where σ̄ ≥ ‖W‖₂.

    While it trains, σ̄ is one step of power iteration a forward pass, which is below ‖W‖₂ by a little. In eval mode σ̄ is
    `norm_bound`, which is not below it.
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
        self.register_buffer("direction", functional.normalize(torch.randn(1, channels, size, size), dim=(1, 2, 3)))
        self._bound: tuple[object, float] | None = None

    def forward(self, x: Tensor) -> Tensor:
        step = self._estimated_step() if self.training else self.proven_step()
        hidden = functional.relu(functional.conv2d(x, self.kernel, self.bias, padding=self.padding))
        return x - step * functional.conv_transpose2d(hidden, self.kernel, padding=self.padding)

    def proven_step(self) -> float:
        """A float32 of at most 2/‖W‖₂², and so one with which the layer of these float32 weights is 1-Lipschitz."""
        exact = 2 / self.norm_bound() ** 2 * (1 - 2**-40) if self.kernel.any() else 0.0
        step = np.float32(exact)
        return float(step if step <= exact else np.nextafter(step, np.float32(0)))

    def norm_bound(self) -> float:
        """An upper bound on ‖W‖₂: see `convolution_norm`. It takes seconds, and is kept until the kernel changes."""
        key = (self.kernel._version, self.kernel.data_ptr())
        if self._bound is None or self._bound[0] != key:
            self._bound = key, convolution_norm(self.kernel.detach().cpu().numpy(), self.size)
        return self._bound[1]

    def _estimated_step(self) -> Tensor:
        with torch.no_grad(), torch.autocast(self.kernel.device.type, enabled=False):
            out = functional.normalize(self._apply_kernel(self.direction), dim=(1, 2, 3))
            back = functional.conv_transpose2d(out, self.kernel, padding=self.padding)
            self.direction.copy_(functional.normalize(back, dim=(1, 2, 3)))
        with torch.autocast(self.kernel.device.type, enabled=False):
            out = functional.normalize(self._apply_kernel(self.direction.clone()), dim=(1, 2, 3)).detach()
            norm = (self._apply_kernel(self.direction.clone()) * out).sum()
            return 2 / (norm**2 + 1e-6)

    def _apply_kernel(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, padding=self.padding)


class MaxMin(nn.Module):
    """The larger and the smaller of two halves of the channels (Anil et al. 2019): 1-Lipschitz, and so are gradients."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return torch.cat((torch.maximum(first, second), torch.minimum(first, second)), dim=1)


class FirstChannels(nn.Module):
    """The first channels, and zeros where there are fewer than that: 1-Lipschitz."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        missing = self.channels - x.shape[1]
        return x[:, : self.channels] if missing <= 0 else functional.pad(x, (0, 0, 0, 0, 0, missing))


class LipschitzNetwork(nn.Sequential):
    """Images [N, C, size, size] → logits [N, K], with ‖f(x) − f(y)‖₂ ≤ ‖x − y‖₂ in eval mode."""

    def __init__(self, width: int, layers: int, size: int, num_classes: int) -> None:
        """`width` channels in the first of log₂(size) stages of `layers` layers; they double as the size halves."""
        found: list[nn.Module] = [FirstChannels(width), ConvexPotential(width, 1, size), MaxMin()]
        while size > 1:
            kernel_size = 3 if size > 2 else 1
            for _ in range(layers):
                found += [ConvexPotential(width, kernel_size, size), MaxMin()]
            found += [FirstChannels(width // 2), nn.PixelUnshuffle(2)]
            width, size = 2 * width, size // 2
        super().__init__(*found, ConvexPotential(width, 1, 1), nn.Flatten(), _FirstLogits(num_classes))


class _FirstLogits(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.classes]


def lipschitz_network(width: int, layers: int, size: int) -> Callable[[int, int], nn.Module]:
    """A function of the number of classes and of channels, as `ARCHITECTURES` has them."""
    return lambda num_classes, _channels: LipschitzNetwork(width, layers, size, num_classes)
