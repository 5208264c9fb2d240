"""A training step that is recorded once as a CUDA graph, and then replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
EAGER_STEPS = 3
"""Steps that are taken one kernel after another first: libraries choose their kernels, momentum gets its memory."""

_Step = Callable[[Tensor, Tensor], tuple[Mapping[str, Tensor], Tensor]]
"""Takes a whole step on images and labels; returns the terms of the loss and the norm of the gradient."""


class Replayed:
    """`step` as one graph: its kernels are started together, on images and labels that are copied to fixed memory."""

    def __init__(self, step: _Step, generator: torch.Generator) -> None:
        """`generator` is what `step` draws from."""
        self._step = step
        self._generator = generator
        self._stream = torch.cuda.Stream(generator.device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._taken = 0

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """As `step`; what is returned is overwritten by the next call."""
        if self._taken < EAGER_STEPS:
            self._taken += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                terms, norm = self._step(images, labels)
            torch.cuda.current_stream().wait_stream(self._stream)
            return dict(terms), norm
        if self._graph is None:
            self._images, self._labels = images.clone(memory_format=torch.preserve_format), labels.clone()
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._generator)
            with torch.cuda.graph(self._graph, stream=self._stream):
                terms, norm = self._step(self._images, self._labels)
            self._answer = dict(terms), norm
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._answer


def read_ahead(batches: Iterable[T]) -> Iterator[T]:
    """The same batches; each is read by another thread while the one before it is worked on."""
    remaining = iter(batches)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, remaining, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, remaining, None)
            yield batch
