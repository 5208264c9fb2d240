"""The networks, by name: FP32 images in [0,1] in, logits out, normalisation inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from heatserve.certification.errors import HeatserveError
from heatserve.training.data.images import ImageShape
from heatserve.training.torchvision_import import import_torchvision


class ArchitectureError(HeatserveError):
    """An architecture is unknown, or does not fit the images."""


class ImageClassifier(nn.Module):
    """Images [N, C, H, W] in [0,1] → logits [N, K]: normalises each channel, then runs `backbone`.

    The state dict has only the backbone's tensors; mean and std are part of a checkpoint's metadata.
    """

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.backbone((images - self.mean) / self.std)
        return logits


def build_network(
    architecture: str, *, num_classes: int, input_shape: ImageShape, mean: Sequence[float], std: Sequence[float]
) -> ImageClassifier:
    """A freshly initialised network (from torch's global generator).

    Args:
        architecture: one of `ARCHITECTURES`.
        num_classes: K, the length of the logits.
        input_shape: C, H, W of one image.
        mean: the mean of each channel, subtracted first.
        std: the standard deviation of each channel, divided by.

    Raises:
        ArchitectureError: an unknown name, colour images expected, or mean and std of another length than C.
    """
    channels = input_shape[0]
    if architecture not in ARCHITECTURES:
        raise ArchitectureError(f"architecture: expected one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    if architecture != "digits_cnn" and channels != 3:
        raise ArchitectureError(f"{architecture}: expected images of 3 channels, got {channels}")
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ArchitectureError(
            f"mean, std: expected one number a channel ({channels}) each, std > 0, got {mean} and {std}"
        )
    return ImageClassifier(ARCHITECTURES[architecture](num_classes, channels), mean, std)


class _DigitsCNN(nn.Module):
    """Three 3×3 convolutions and a linear layer, for images as small as 8×8."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv_bn(channels, 32),
            nn.ReLU(),
            *_conv_bn(32, 32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            *_conv_bn(32, 64),
            nn.ReLU(),
        )
        self.linear = nn.Linear(64 * 4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = functional.adaptive_avg_pool2d(self.features(x), 2)
        logits: Tensor = self.linear(features.flatten(1))
        return logits


def _conv_bn(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)


class _Block(nn.Module):
    """Two 3×3 convolutions around a parameter-free shortcut (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.extra = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.extra:
            half = self.extra // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half))
        return functional.relu(out + x)


class _CifarResNet(nn.Module):
    """The 6n+2-layer ResNet of He et al. (2016, section 4.2): n blocks each of width 16, 32 and 64."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, 1)
        self.layer2 = _stage(blocks, 16, 32, 2)
        self.layer3 = _stage(blocks, 32, 64, 2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    later = (_Block(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Block(inputs, outputs, stride), *later)


def _cifar_resnet(layers: int) -> Callable[[int, int], nn.Module]:
    return lambda num_classes, _channels: _CifarResNet((layers - 2) // 6, num_classes)


def _cifar_resnet34(num_classes: int, _channels: int) -> nn.Module:
    """torchvision's ResNet-34 with a stem for 32×32 images: 3×3, stride 1, no pooling."""
    network: nn.Module = import_torchvision("models").resnet34(num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def _torchvision_resnet(name: str) -> Callable[[int, int], nn.Module]:
    def build(num_classes: int, _channels: int) -> nn.Module:
        network: nn.Module = getattr(import_torchvision("models"), name)(num_classes=num_classes)
        return network

    return build


ARCHITECTURES: dict[str, Callable[[int, int], nn.Module]] = {
    "digits_cnn": _DigitsCNN,
    "cifar_resnet20": _cifar_resnet(20),
    "cifar_resnet32": _cifar_resnet(32),
    "cifar_resnet56": _cifar_resnet(56),
    "cifar_resnet110": _cifar_resnet(110),
    "cifar_resnet34": _cifar_resnet34,
    "resnet18": _torchvision_resnet("resnet18"),
    "resnet50": _torchvision_resnet("resnet50"),
}
"""Name → a function of the number of classes and of channels. `resnet18` and `resnet50` are torchvision's own."""
