"""A network that an audit read from a graph, as a torch module in float32, so that an attack has its gradients.

Layers that are convolutions are computed as such, which is several times as fast as the products of patches that the
graph has. It decides nothing: what an attack finds is judged by the served graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from heatserve.export.audit.proven.pieces import Centred, Places, Potential, ReadNetwork, Sorted, Weights


class _Gather(torch.autograd.Function):
    """Numbers of a vector, each at most once: then the derivative is a gather, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return functional.pad(x, (0, 1)).index_select(1, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return functional.pad(gradients[0], (0, 1)).index_select(1, ctx.back), None, None


class _Take(nn.Module):
    """The numbers of vectors [N, n] at some places, each taken at most once, and zeros."""

    def __init__(self, places: Places, numbers: int) -> None:
        super().__init__()
        back = np.full(numbers, len(places))
        there = places >= 0
        back[places[there]] = np.flatnonzero(there)
        self.places: Tensor
        self.back: Tensor
        self.register_buffer("places", torch.from_numpy(np.where(there, places, numbers)))
        self.register_buffer("back", torch.from_numpy(back))

    def forward(self, x: Tensor) -> Tensor:
        taken: Tensor = _Gather.apply(x, self.places, self.back)  # type: ignore[no-untyped-call]
        return taken


class _Centre(nn.Module):
    def __init__(self, piece: Centred) -> None:
        super().__init__()
        self.take = _Take(piece.places, len(piece.places))
        self.mean: Tensor
        self.register_buffer("mean", torch.from_numpy(piece.mean.astype(np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        centred: Tensor = self.take(x.flatten(1)) - self.mean
        return centred


class _Sort(nn.Module):
    def __init__(self, piece: Sorted, numbers: int) -> None:
        super().__init__()
        self.take = _Take(np.concatenate([piece.first, piece.second]), numbers)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.take(x).chunk(2, dim=1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


class _Product(nn.Module):
    """Wx for vectors [N, n]: a convolution where W is one, else products of patches."""

    def __init__(self, weights: Weights, shape: tuple[int, ...]) -> None:
        super().__init__()
        kernel = kernel_of(weights, shape)
        self.shape, self.is_convolution = shape, kernel is not None
        self.values: Tensor
        self.places: Tensor
        values = weights.values if kernel is None else kernel
        places = np.where(weights.places < 0, weights.numbers, weights.places)
        self.register_buffer("values", torch.from_numpy(values.astype(np.float32)))
        self.register_buffer("places", torch.from_numpy(places.ravel()) if kernel is None else torch.zeros(0))
        self.patches = weights.places.shape

    def forward(self, x: Tensor) -> Tensor:
        if self.is_convolution:
            height, width, channels = self.shape
            image = x.view(-1, height, width, channels).permute(0, 3, 1, 2)  # channels last, and nothing is copied
            out = functional.conv2d(image, self.values, padding=self.values.shape[-1] // 2)
            return out.permute(0, 2, 3, 1).reshape(len(x), -1)
        taken = functional.pad(x, (0, 1)).index_select(1, self.places)
        return (taken.view(len(x), *self.patches) @ self.values).flatten(1)


class _Layer(nn.Module):
    def __init__(self, piece: Potential, numbers: int) -> None:
        super().__init__()
        self.take = _Take(piece.places, numbers)
        hidden = (*piece.shape[:-1], piece.forward.values.shape[1])
        self.into, self.out = _Product(piece.forward, piece.shape), _Product(piece.back, hidden)
        self.bias: Tensor
        self.register_buffer("bias", torch.from_numpy(piece.bias.astype(np.float32)))
        self.step = piece.step

    def forward(self, x: Tensor) -> Tensor:
        x = self.take(x)
        moved: Tensor = x - self.step * self.out(functional.relu(self.into(x) + self.bias))
        return moved


class ProvenNetwork(nn.Module):
    """Images [N, C, H, W] → logits [N, K] in float32."""

    def __init__(self, network: ReadNetwork) -> None:
        super().__init__()
        found: list[nn.Module] = []
        numbers = len(network.centred.places)
        for piece in network.pieces:
            if isinstance(piece, Centred):
                found.append(_Centre(piece))
            elif isinstance(piece, Sorted):
                found.append(_Sort(piece, numbers))
                numbers = 2 * len(piece.first)
            else:
                found.append(_Layer(piece, numbers))
                numbers = len(piece.places)
        self.layers = nn.Sequential(*found, _Take(network.logits, numbers))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        logits: Tensor = self.layers(images)
        return logits


def kernel_of(weights: Weights, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """The kernel [out, in, k, k] of a zero-padded convolution on [H, W, C], or None where W is something else."""
    if len(shape) != 3 or len(weights.places) != shape[0] * shape[1]:
        return None
    height, width, channels = shape
    rows, columns = np.divmod(np.arange(len(weights.places)), width)
    found = {}
    for term, places in enumerate(weights.places.T):
        inside = np.flatnonzero(places >= 0)
        if not len(inside):
            continue  # beyond the border for every pixel
        pixel, channel = np.divmod(places[inside[0]], channels)
        down, across = pixel // width - rows[inside[0]], pixel % width - columns[inside[0]]
        there = (rows + down >= 0) & (rows + down < height) & (columns + across >= 0) & (columns + across < width)
        expected = np.where(there, ((rows + down) * width + columns + across) * channels + channel, -1)
        if (expected != np.maximum(places, -1)).any() or (down, across, channel) in found:
            return None
        found[int(down), int(across), int(channel)] = weights.values[term]
    reach = max((max(abs(down), abs(across)) for down, across, _ in found), default=0)
    kernel = np.zeros((weights.values.shape[1], channels, 2 * reach + 1, 2 * reach + 1))
    for (down, across, channel), values in found.items():
        kernel[:, channel, down + reach, across + reach] = values
    return kernel
