"""Numbers that others published, each with its source; those of the paper are in `heatserve.benchmarks.paper`."""

from __future__ import annotations

from dataclasses import dataclass

from heatserve.benchmarks.paper.published import TABLE_2, PublishedSeconds


@dataclass(frozen=True)
class Source:
    """Where a number was published."""

    name: str
    title: str
    address: str


RRISE = Source(
    "RRISE",
    "Park et al. (2026), RRISE: Robust Radius Inference via a Surrogate Estimator, arXiv 2606.02876, abstract",
    "https://arxiv.org/abs/2606.02876",
)
RRISE_DATASET = "cifar10"
"""One that it was measured on."""
RRISE_GAP = 0.0084
"""Largest gap of its certified accuracy to Monte Carlo with a fixed budget, over its image data sets."""
RRISE_PASSES = 10_000
"""Noisy passes a query that its single pass replaces, at most."""
RRISE_QUERIES = 100_000
"""Queries after which the Monte Carlo passes of its training are paid back, about."""

LIRESNET = Source(
    "LiResNet++",
    "Hu et al. (2024), A Recipe for Improved Certifiable Robustness: Capacity and Data, arXiv 2310.02513; main "
    "results in the README of its code, with generated images in training",
    "https://arxiv.org/abs/2310.02513",
)
LIRESNET_DATASET = "cifar10"
LIRESNET_ACCURACY = 0.870
"""On the clean test images of CIFAR-10."""
LIRESNET_CERTIFIED = {36 / 255: 0.781, 72 / 255: 0.666, 108 / 255: 0.535}
"""Certified accuracy by L2 radius, on the test images of CIFAR-10."""

PAPER = Source(
    "the paper",
    "Campbell, Finlay and Oberman (2020), Adversarial Boot Camp: label free certified robustness in one epoch, "
    "arXiv 2010.02508",
    "https://arxiv.org/abs/2010.02508",
)
PUBLISHED_AS = {"cifar10": "CIFAR-10", "imagenet": "ImageNet-1k"}
"""The paper's names of data sets, by what the names of ours begin with."""


def published_seconds(name: str) -> PublishedSeconds | None:
    """The row of the paper's Table 2, on a CPU, that a data set or classifier of ours corresponds to; None: none."""
    theirs = next((printed for ours, printed in PUBLISHED_AS.items() if name.startswith(ours)), None)
    return next((row for row in TABLE_2 if (row.dataset, row.processor) == (theirs, "CPU")), None)


PUBLICATIONS = (PAPER, RRISE, LIRESNET)
