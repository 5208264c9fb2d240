"""What the tests of training share: a few images, some that are disturbed, a small network, and what is looked at."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heatserve.training.architectures import build_network
from heatserve.training.data import Batch, ImageData, Images, load_data


def few_digits(count: int = 96) -> ImageData:
    """The first digits of the training split."""
    digits = load_data("digits", "train")
    return replace(digits, images=digits.images.subset(range(count)))


@dataclass(frozen=True)
class DisturbedImages:
    """Images that `act` just before they hand out their batch number `at`, counted from 1 over all epochs; 0: never."""

    images: Images
    at: int = 0
    act: Callable[[], None] = lambda: None
    handed_out: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index]

    def subset(self, indices: Sequence[int]) -> Images:
        return self.images.subset(indices)

    def batches(self, index_batches: Sequence[Tensor]) -> Iterator[Batch]:
        for batch in self.images.batches(index_batches):
            self.handed_out.append(len(batch[1]))
            if len(self.handed_out) == self.at:
                self.act()
            yield batch


class Crash(Exception):
    """Something that ends a training without any notice."""


def crash() -> None:
    raise Crash


def raise_signal(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def log_records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digit_images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=seeded(9))


def digits_network(seed: int = 1) -> nn.Module:
    """A digits CNN with BatchNorm, freshly initialised, in train mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network("digits_cnn", num_classes=10, input_shape=(1, 8, 8), mean=(0.5,), std=(0.5,)).train()


def seen_by(network: nn.Module) -> list[tuple[bool, Tensor]]:
    """What goes through `network` from now on: whether it was in train mode, and the images."""
    seen: list[tuple[bool, Tensor]] = []
    network.register_forward_hook(lambda module, inputs, _: seen.append((module.training, inputs[0].detach().clone())))
    return seen


def gradient_of(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


def noisy_cross_entropy(logits: Tensor, target: Tensor, consistency: float) -> Tensor:
    """Cross entropy from `target` [N, K] to logits [m, N, K], plus λ times the mean divergence KL(p̄ ‖ p_j)."""
    cross_entropy = -(target * logits.log_softmax(2)).sum(2).mean()
    answers = logits.softmax(2)
    mean = answers.mean(0)
    divergence = torch.stack([(mean * (mean / answer).log()).sum(1) for answer in answers]).mean()
    return cross_entropy + consistency * divergence
