"""ResNets for 32×32 images, whose tensors have the names of widespread weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

Shortcut = Callable[[int, int, int], nn.Module]
"""From channels in, channels out and stride: what a block adds to its two convolutions; no tensors where it is x."""


class PaddedShortcut(nn.Module):
    """Option A of He et al. (2016): each `stride`-th pixel, and channels of zeros on both sides."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        if not self.extra:
            return x
        half = self.extra // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half))


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Option B of He et al. (2016): a 1×1 convolution and BatchNorm; nothing where channels and size stay."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is the submodule `name`."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut, name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.name = name
        self.add_module(name, shortcut(inputs, outputs, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.get_submodule(self.name)(x))


class CifarResNet(nn.Module):
    """A 3×3 convolution, stages of blocks whose width doubles as the size halves, the mean over pixels, a linear layer.

    He et al. (2016, section 4.2) have three stages from width 16; ResNet-18 has four from 64.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        num_classes: int,
        channels: int,
        *,
        shortcut: Shortcut = projection,
        names: tuple[str, str] = ("shortcut", "linear"),
    ) -> None:
        """`blocks` of each stage; `names` of the shortcuts and of the last layer, as published weights have them."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = [f"layer{number}" for number in range(1, len(blocks) + 1)]
        inputs = width
        for number, (stage, count) in enumerate(zip(self.stages, blocks, strict=True)):
            outputs, stride = width * 2**number, 1 if number == 0 else 2
            first = _Block(inputs, outputs, stride, shortcut, names[0])
            later = (_Block(outputs, outputs, 1, shortcut, names[0]) for _ in range(count - 1))
            self.add_module(stage, nn.Sequential(first, *later))
            inputs = outputs
        self.head = names[1]
        self.add_module(self.head, nn.Linear(inputs, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.get_submodule(self.head)(x.mean((2, 3)))
        return logits


def option_a(layers: int) -> Callable[[int, int], nn.Module]:
    """The 6n+2-layer ResNet of He et al. (2016, section 4.2), shortcuts without parameters."""
    blocks = ((layers - 2) // 6,) * 3
    return lambda num_classes, channels: CifarResNet(blocks, 16, num_classes, channels, shortcut=PaddedShortcut)


def cohen_resnet110(num_classes: int, channels: int) -> nn.Module:
    """The ResNet-110 of Cohen et al. (2019) and Salman et al. (2019): shortcuts are 1×1 convolutions with BatchNorm."""
    return CifarResNet((18, 18, 18), 16, num_classes, channels, names=("downsample", "fc"))


def cifar_resnet18(num_classes: int, channels: int) -> nn.Module:
    """ResNet-18 with a 3×3 stem of stride 1 and no pooling; tensors are named as in kuangliu/pytorch-cifar."""
    return CifarResNet((2, 2, 2, 2), 64, num_classes, channels)
