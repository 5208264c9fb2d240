"""Export a network with random weights, and compare the served graph with torch at every size of batch.

Weights that were just initialised hide faults: a residual branch may be multiplied by 10⁻⁶, a head by 0, and batch
normalisation has statistics of nothing, so that activations vanish and all images get one answer. So constants get
noise, batch normalisation gets statistics, and logits are spread until probabilities are no longer all alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from heatserve.benchmarks.classifiers import BENCHMARK_SIGMA
from heatserve.benchmarks.networks.chosen import NETWORKS
from heatserve.benchmarks.networks.refused import REFUSED, REFUSED_SHAPE
from heatserve.benchmarks.records.networks import ExportedNetwork
from heatserve.certification.errors import HeatserveError
from heatserve.export.graph.build import certified_graph, logits_graph
from heatserve.export.runtime.exact import compare_with_torch, noise_images
from heatserve.training.architectures import build_network

_CLASSES = 10
_IMAGES = 16
_NOISE = 0.1  # standard deviation of what constant parameters get
_SPREAD = 2.0  # standard deviation of an image's logits


class SpreadLogits(nn.Module):
    """A network whose logits are multiplied by a number."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network = network
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.factor * self.network(images)
        return logits


def measure_network(reference: str, *, seed: int) -> ExportedNetwork:
    """What comes of one of `NETWORKS`.

    Args:
        reference: its name there.
        seed: decides the weights and the images.
    """
    shape = NETWORKS[reference]
    channels = shape[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(
            reference,
            num_classes=_CLASSES,
            input_shape=shape,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
        )
        awake = with_noise(network, torch.from_numpy(noise_images((_IMAGES, *shape), seed=seed + 1)))
    return _exported(awake, shape, seed)


def measure_refusals(*, seed: int) -> Mapping[str, str]:
    """What an export says of each of `REFUSED`, by what it has; empty where it says nothing."""
    found = dict[str, str]()
    for what, make in REFUSED.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found[what] = _exported(make().eval(), REFUSED_SHAPE, seed).refused or ""
    return found


def with_noise(network: nn.Module, images: Tensor) -> nn.Module:
    """The network in eval mode, no parameter constant, with activations of one size and logits that are spread.

    Batch normalisation divides by the root mean square of a channel over these images, and hardly shifts it. If it
    subtracted the mean, as a trained one does, random layers would enlarge small differences from layer to layer:
    the answer of a ResNet-50 moved by 2600 times what its pixels did, and float32 in two orders was far apart.

    Args:
        network: freshly initialised; it is changed.
        images: [N, C, H, W].
    """
    network.train()  # drops what some networks keep of their weights in eval mode
    network.eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if (parameter == parameter.flatten()[0]).all():
                parameter.add_(torch.randn_like(parameter), alpha=_NOISE)
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:
            norm.train()
            norm.momentum = None  # the statistics of all batches since the start, here one
        if norms:
            network(images)
        for norm in norms:
            _without_shift(norm)
        deviation = network.eval()(images).std(1).mean()
    return SpreadLogits(network, _SPREAD / float(deviation)).eval()


def _without_shift(norm: _BatchNorm) -> None:
    mean, variance = norm.running_mean, norm.running_var
    if mean is not None and variance is not None:
        variance += mean.square()
        mean.copy_(_NOISE * variance.sqrt() * torch.randn_like(mean))


def _exported(network: nn.Module, shape: tuple[int, int, int], seed: int) -> ExportedNetwork:
    """Export, compare and, like `heatserve export`, refuse."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    start = time.perf_counter()
    found = ExportedNetwork(input_shape=shape, parameters=parameters, seconds=0)
    try:
        served = certified_graph(logits_graph(network, input_shape=shape), sigma=BENCHMARK_SIGMA)
        found = replace(found, seconds=time.perf_counter() - start, nodes=len(served.graph.node))
        exactness = compare_with_torch(network, served, seed=seed)
        found = replace(found, errors=exactness.errors, rounding=exactness.rounding)
        exactness.require()
    except HeatserveError as error:
        return replace(found, refused=str(error), seconds=found.seconds or time.perf_counter() - start)
    return found
