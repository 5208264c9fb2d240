"""Wide ResNets (Zagoruyko and Komodakis 2016); tensors are named as in the code of TRADES and of RobustBench."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class _PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3×3 convolutions; a 1×1 convolution as shortcut where channels change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = inputs != outputs
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(x))
        out = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        shortcut: Tensor = x if self.convShortcut is None else self.convShortcut(activated)
        total: Tensor = shortcut + out
        return total


class _Stage(nn.Module):
    def __init__(self, count: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        later = (_PreActivationBlock(outputs, outputs, 1) for _ in range(count - 1))
        self.layer = nn.Sequential(_PreActivationBlock(inputs, outputs, stride), *later)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """WRN-`depth`-`widen`, without dropout, for 32×32 images."""

    def __init__(self, depth: int, widen: int, num_classes: int, channels: int) -> None:
        super().__init__()
        count = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _Stage(count, 16, 16 * widen, 1)
        self.block2 = _Stage(count, 16 * widen, 32 * widen, 2)
        self.block3 = _Stage(count, 32 * widen, 64 * widen, 2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = functional.relu(self.bn1(x))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
