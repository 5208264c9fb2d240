"""One classification in PyTorch, eager, in one pass and in n₀ noisy passes: how the paper measured its Table 2.

It needs torch and nothing else of what a bare GPU machine lacks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from heatserve.benchmarks.classifiers import BENCHMARK_SIGMA
from heatserve.benchmarks.torch_votes import torch_votes
from heatserve.export.runtime.timing import Way


@torch.no_grad()
def eager_pass(network: nn.Module, image: Tensor) -> Tensor:
    """The class that one pass answers to an image [1, C, H, W], int64 []."""
    logits: Tensor = network(image)
    return logits.argmax(1)[0]


def eager_votes(network: nn.Module, image: Tensor, n0: int, num_classes: int) -> Tensor:
    """The class that most of n₀ noisy passes in one batch answer to an image [1, C, H, W], int64 []."""
    votes = torch_votes(network, image, n0, sigma=BENCHMARK_SIGMA, num_classes=num_classes, batch_size=n0)
    return votes.argmax()


def eager_ways(network: nn.Module, image: Tensor, n0: int, num_classes: int) -> tuple[Way, Way]:
    """The deterministic and the stochastic way; each ends when the class is known to the program.

    Args:
        network: from images [N, C, H, W] to logits [N, K], in eval mode.
        image: [1, C, H, W], pixels in [0,1], on the device of the network, where it stays.
        n0: noisy passes of the stochastic way.
        num_classes: K.
    """
    return (
        lambda: int(eager_pass(network, image)),  # waits for a GPU
        lambda: int(eager_votes(network, image, n0, num_classes)),
    )
