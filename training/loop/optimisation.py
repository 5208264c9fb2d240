"""How a network is optimised: SGD and everything that decides its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from heatserve.training.methods.parameters import require


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """SGD with Nesterov momentum.

    Args:
        epochs: passes over the training images.
        batch_size: images in one step, of all processes together.
        lr: the learning rate at the start.
        decay: "cosine" takes the learning rate to 0 over all steps, "constant" leaves it; "one-cycle" first raises
            it to `lr` from a 25th of it, over 30 % of the steps (Smith and Topin 2019).
        momentum: the momentum of SGD.
        weight_decay: L2 penalty on all weights.
        clip: largest L2 norm of the gradient over all weights; longer ones are scaled down. The heat loss starts with
            gradients that destroy a network in a few steps otherwise.
        precision: "float32", or "bfloat16" to let autocast run what it deems safe in it: for GPUs, and for CPUs that
            have instructions for it (AMX, AVX512_BF16).
        augment: shift and mirror the images, where the data set has a rule for it.
        cpu_threads: how many of torch's threads to train with; None: its setting, but at most `usable_cores`. Threads
            that share a tiny batch wait for one another: on a busy machine two of them take ten times as long as one.
    """

    epochs: int
    batch_size: int
    lr: float
    decay: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 1.0
    precision: str = "float32"
    augment: bool = True
    cpu_threads: int | None = None

    def __post_init__(self) -> None:
        require("epochs", self.epochs, self.epochs >= 1, "a whole number from 1")
        require("batch_size", self.batch_size, self.batch_size >= 2, "a whole number from 2")
        require("lr", self.lr, 0 < self.lr < math.inf, "a number above 0")
        require("decay", self.decay, self.decay in DECAYS, " or ".join(DECAYS))
        require("momentum", self.momentum, 0 <= self.momentum < 1, "a number from 0 to below 1")
        require("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "a number from 0")
        require("clip", self.clip, 0 < self.clip < math.inf, "a number above 0")
        require("precision", self.precision, self.precision in PRECISIONS, " or ".join(PRECISIONS))
        require(
            "cpu_threads", self.cpu_threads, self.cpu_threads is None or self.cpu_threads >= 1, "a whole number from 1"
        )


def _between(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "constant": lambda _progress: 1.0,
    "one-cycle": lambda progress: (
        _between(0.04, 1.0, progress / 0.3) if progress < 0.3 else _between(1.0, 4e-6, (progress - 0.3) / 0.7)
    ),
}
"""Factor on the learning rate, from the share of steps that is done."""

PRECISIONS = ("float32", "bfloat16")
