"""What a network's images are normalised by: as the user says, as the file holds it, or ImageNet's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from heatserve.training.architectures.errors import ArchitectureError
from heatserve.training.channels import IMAGENET_MEAN, IMAGENET_STD
from heatserve.training.weights.matching import MEANS, STDS
from heatserve.training.weights.unwrapping import StateDict

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, pixels in [0,1]."""


def choose_normalisation(
    state: StateDict, mean: Sequence[float] | None, std: Sequence[float] | None, *, channels: int
) -> Statistics:
    """Mean and std of each channel: given ones, or else those of a layer or header in the file, or else ImageNet's.

    Args:
        state: the file.
        mean: given by the user; None: not given.
        std: likewise.
        channels: C.

    Raises:
        ArchitectureError: not one number a channel, or numbers that are none of pixels in [0,1].
    """
    stored = (state.metadata.mean, state.metadata.std) if state.metadata else _stored(state.tensors, channels)
    known = stored or (IMAGENET_MEAN, IMAGENET_STD)
    chosen = tuple(known[0] if mean is None else mean), tuple(known[1] if std is None else std)
    hint = "" if mean and std else _asking(channels, "the file's" if stored else "ImageNet's")
    _check(*chosen, channels, hint)
    return chosen


def _stored(tensors: Mapping[str, Tensor], channels: int) -> Statistics | None:
    """Mean and std of a layer in front of the network, as robustness libraries store it."""
    for name, mean in tensors.items():
        parent, dot, last = name.rpartition(".")
        if last not in MEANS or mean.numel() != channels:
            continue
        std = tensors.get(f"{parent}{dot}{STDS[MEANS.index(last)]}")
        if std is not None and std.numel() == channels:
            return tuple(mean.double().flatten().tolist()), tuple(std.double().flatten().tolist())
    return None


def _asking(channels: int, whose: str) -> str:
    """For an error about numbers of which the user did not give all: whose they are, and what to give."""
    zeros, ones = (",".join([number] * channels) for number in "01")
    return (
        f" ({whose}, where none is given); give those of the training with --mean and --std, or --mean {zeros} --std "
        f"{ones} if it took pixels in [0,1] as they are"
    )


def _check(mean: Sequence[float], std: Sequence[float], channels: int, hint: str) -> None:
    if len(mean) != channels or len(std) != channels:
        raise ArchitectureError(
            f"mean, std: expected one number a channel ({channels}) each, got {tuple(mean)} and {tuple(std)}{hint}"
        )
    if not all(0 <= number <= 1 for number in mean):
        scaled = ""
        if all(0 <= number <= 255 for number in mean) and all(0 < number <= 255 for number in std):
            numbers = (",".join(f"{number / 255:.6g}" for number in values) for values in (mean, std))
            scaled = "; numbers for pixels from 0 to 255 are divided by 255: --mean {} --std {}".format(*numbers)
        raise ArchitectureError(f"mean: expected numbers from 0 to 1, of pixels in [0,1], got {tuple(mean)}{scaled}")
    if not all(math.isfinite(number) and 0 < number <= 1 for number in std):
        raise ArchitectureError(
            f"std: expected numbers above 0, at most 1, of pixels in [0,1], got {tuple(std)}; numbers for pixels "
            f"from 0 to 255 are divided by 255"
        )
