"""Two ways of holding images: all of them in memory, or one file for each, decoded when it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatserve.training.data.colours import Decoded
from heatserve.training.data.decoding import decode, decoded_size, to_bytes, to_floats
from heatserve.training.data.errors import DataError

Batch = tuple[Tensor, Tensor]
"""float32 images [N, C, H, W] in [0,1], and int64 labels [N]."""

ImageShape = tuple[int, int, int]
"""C, H, W of one image."""


class Images(Protocol):
    """A torch Dataset of (float32 [C, H, W] in [0,1], label) that can also be cut and read in batches."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    def subset(self, indices: Sequence[int]) -> Images:
        """The images at `indices`, in that order."""
        ...

    def batches(self, index_batches: Sequence[Tensor]) -> Iterator[Batch]:
        """One batch for each int64 tensor of indices."""
        ...


@dataclass(frozen=True)
class TensorImages:
    """Images held as bytes: `pixels` uint8 [N, C, H, W] stands for pixels / `scale`; `labels` int64 [N]."""

    pixels: Tensor
    labels: Tensor
    scale: float = 255.0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index].float() / self.scale, int(self.labels[index])

    def subset(self, indices: Sequence[int]) -> TensorImages:
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return TensorImages(self.pixels[chosen], self.labels[chosen], self.scale)

    def batches(self, index_batches: Sequence[Tensor]) -> Iterator[Batch]:
        for indices in index_batches:
            yield self.pixels[indices].float() / self.scale, self.labels[indices]

    def picture(self, index: int) -> NDArray[np.uint8]:
        """An image as it is stored, uint8 [H, W, C]."""
        levels = (self.pixels[index].float() * (255 / self.scale)).round().to(torch.uint8)
        return levels.permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class FileImages:
    """One file for each image, decoded by threads while the network works; `prepare` brings every image to one size."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    prepare: Callable[[Decoded], Decoded]
    channels: int = 3

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = to_floats(self.prepare(decode(self.paths[index], channels=self.channels)))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), self.labels[index]

    def subset(self, indices: Sequence[int]) -> FileImages:
        paths, labels = tuple(self.paths[i] for i in indices), tuple(self.labels[i] for i in indices)
        return FileImages(paths, labels, self.prepare, self.channels)

    def batches(self, index_batches: Sequence[Tensor]) -> Iterator[Batch]:
        waiting: deque[list[Future[tuple[Tensor, int]]]] = deque()
        with ThreadPoolExecutor() as pool:  # decoding releases Python's lock
            for indices in index_batches:
                waiting.append([pool.submit(self.__getitem__, index) for index in indices.tolist()])
                if len(waiting) > _BATCHES_AHEAD:
                    yield _collect(waiting.popleft())
            while waiting:
                yield _collect(waiting.popleft())

    def picture(self, index: int) -> NDArray[np.uint8]:
        """An image before `prepare`, uint8 [H, W, C] of any size: what a client sends where the graph resizes."""
        return to_bytes(decode(self.paths[index], channels=self.channels))


_BATCHES_AHEAD = 2


def _collect(decoded: list[Future[tuple[Tensor, int]]]) -> Batch:
    images, labels = zip(*(future.result() for future in decoded), strict=True)
    return torch.stack(images), torch.tensor(labels)


def common_size(paths: Sequence[Path]) -> tuple[int, int]:
    """The (height, width) that all files share; only their headers are read.

    Raises:
        DataError: an unreadable file, or one whose size differs from the first file's.
    """
    expected: tuple[int, int] | None = None
    for path in paths:
        size = decoded_size(path)
        if expected is not None and size != expected:
            raise unequal_sizes(path, size, paths[0], expected)
        expected = size
    if expected is None:
        raise DataError("expected at least one image file, got none")
    return expected


def unequal_sizes(path: Path, size: tuple[int, int], first: Path, expected: tuple[int, int]) -> DataError:
    """What to say of a file of another (height, width) than the first one."""
    return DataError(
        f"{path}: expected {expected[0]}×{expected[1]} pixels like {first}, got {size[0]}×{size[1]}; pictures of "
        "several sizes need the option resize (--resize 256 --crop 224, or ?resize=256&crop=224)"
    )
