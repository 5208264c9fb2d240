"""The architectures that are built in, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from heatserve.training.architectures.cifar import cifar_resnet18, cohen_resnet110, option_a
from heatserve.training.architectures.libraries import torchvision_network
from heatserve.training.architectures.lipschitz import lipschitz_network
from heatserve.training.architectures.wide_resnet import WideResNet


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


def _cifar_resnet34(num_classes: int, channels: int) -> nn.Module:
    """torchvision's ResNet-34 with a stem for 32×32 images: 3×3, stride 1, no pooling."""
    network = torchvision_network("resnet34", num_classes, channels, {})
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def _torchvision(name: str) -> Callable[[int, int], nn.Module]:
    return lambda num_classes, channels: torchvision_network(name, num_classes, channels, {})


ARCHITECTURES: dict[str, Callable[[int, int], nn.Module]] = {
    "digits_cnn": _DigitsCNN,
    "cifar_resnet20": option_a(20),
    "cifar_resnet32": option_a(32),
    "cifar_resnet56": option_a(56),
    "cifar_resnet110": option_a(110),
    "cifar_resnet18": cifar_resnet18,
    "cifar_resnet34": _cifar_resnet34,
    "cifar_wrn28_10": lambda num_classes, channels: WideResNet(28, 10, num_classes, channels),
    "cohen_resnet110": cohen_resnet110,
    "lipschitz_digits": lipschitz_network(32, 1, 8, last_layers=6),
    "lipschitz_xs": lipschitz_network(32, 3, 32),
    "lipschitz_s": lipschitz_network(64, 3, 32),
    "lipschitz_m": lipschitz_network(128, 3, 32),
    "resnet18": _torchvision("resnet18"),
    "resnet50": _torchvision("resnet50"),
}
"""Name → a function of the number of classes and of channels. `resnet18` and `resnet50` are torchvision's own."""
