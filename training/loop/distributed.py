"""Data parallelism under `torchrun`: every process takes its share of each batch; the gradients are averaged.

    torchrun --nproc-per-node 2 -m heatserve train heat --from …

With one process nothing here does anything. BatchNorm normalises by the statistics of each process's share, and its
running statistics are averaged after every epoch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from heatserve.certification.errors import HeatserveError


class TeamError(HeatserveError):
    """Another process of the training has ended, and this one cannot go on without it."""


@dataclass(frozen=True)
class Team:
    """This process, `rank`, among the `size` processes that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and reports."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """The rows of a batch that are this process's to take."""
        return batch.tensor_split(self.size)[self.rank]

    def average(self, gradients: Sequence[Tensor], scalars: Tensor, *, images: int) -> tuple[Tensor, int]:
        """Replace each gradient by its mean over the images of all processes; the same mean of `scalars` [S].

        `images` is how many of them the gradients and the scalars of this process are means over.

        Returns:
            The means of the scalars, and the number of images of all processes.
        """
        if self.size == 1:
            return scalars, images
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), scalars, torch.ones_like(scalars[:1])])
        flat *= images
        with self._all_there():
            dist.all_reduce(flat)
        total = round(flat[-1].item())
        flat /= total
        *parts, mean, _ = torch.split(flat, [*(gradient.numel() for gradient in gradients), len(scalars), 1])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return mean, total

    def begin_alike(self, network: nn.Module) -> None:
        """Give all processes the weights of the first: code of a user may draw them by a chance of its own."""
        if self.size > 1:
            with self._all_there():
                for tensor in (*network.parameters(), *network.buffers()):
                    dist.broadcast(tensor.data, 0)

    def average_statistics(self, network: nn.Module) -> None:
        """Replace the running statistics of BatchNorm by their mean over all processes."""
        for buffer in network.buffers():
            if self.size > 1 and buffer.is_floating_point():
                with self._all_there():
                    dist.all_reduce(buffer)
                buffer /= self.size

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._all_there():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def _all_there(self) -> Iterator[None]:
        """Say of the error of an exchange what it means: that of Gloo or NCCL is about a socket.

        Raises:
            TeamError: as said.
        """
        try:
            yield
        except RuntimeError as error:
            said = " ".join(str(error).split())
            raise TeamError(
                f"process {self.rank} of {self.size}: expected all processes of the training to go on, but one has "
                "ended, or cannot be reached: look for its own message, or for a kill for want of memory. The same "
                f"command with --resume goes on from the last state. ({said:.200})"
            ) from None


def join(device: torch.device) -> Team:
    """The processes that `torchrun` started together, connected over NCCL on GPUs and over Gloo on CPUs.

    A GPU becomes the one that torch means where none is named, as of a stream.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if device.type == "cuda" and (device.index is not None or size > 1):
        torch.cuda.set_device(device)
    if size == 1:
        return Team()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Team(dist.get_rank(), size)


def leads() -> bool:
    """Whether this process reports to the user: it is the only one, or the first of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"
