"""What a training changes and writes down: one network, or the pair of f and the single pass v."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from heatserve.certification.files import write_atomically
from heatserve.training.architectures.network import ImageClassifier
from heatserve.training.checkpoint import (
    Checkpoint,
    CheckpointMetadata,
    base_path,
    load_base,
    load_checkpoint,
    network_of,
    save_checkpoint,
)
from heatserve.training.methods.average import Pair
from heatserve.training.methods.parameters import AverageParameters, NoiseParameters, ParameterError


class Student(Protocol):
    """Handed to the training, which knows neither how many networks there are nor what is written for each."""

    @property
    def start(self) -> ImageClassifier:
        """The network that training starts from and that label-free methods learn from; it is not changed."""
        ...

    @property
    def network(self) -> nn.Module:
        """What the loop trains, in place."""
        ...

    def save(self, out: Path, metadata: CheckpointMetadata) -> None:
        """Write everything that was trained; what is served goes to `out`."""
        ...


@dataclass(frozen=True)
class OneNetwork:
    """The usual case: the network that is trained is the one that is written."""

    start: ImageClassifier
    network: ImageClassifier

    def save(self, out: Path, metadata: CheckpointMetadata) -> None:
        save_checkpoint(out, self.network, metadata)


@dataclass(frozen=True)
class TwoNetworks:
    """f and v of `AverageParameters`: v is written to `out`, f beside it, to `base_path(out)`.

    `frozen` is the checkpoint of an f that is not trained: that file is copied byte for byte.
    """

    start: ImageClassifier
    base: ImageClassifier
    single_pass: ImageClassifier
    frozen: Checkpoint | None

    @cached_property
    def network(self) -> Pair:
        return Pair(self.base, self.single_pass)

    def save(self, out: Path, metadata: CheckpointMetadata) -> None:
        beside = base_path(out)
        if self.frozen is None:
            save_checkpoint(beside, self.base, replace(metadata, method=NoiseParameters.method))
        else:
            write_atomically(beside, self.frozen.path.read_bytes())
        sha256 = load_checkpoint(beside).sha256
        save_checkpoint(out, self.single_pass, replace(metadata, base_sha256=sha256))


def copy_of(parent: Checkpoint) -> OneNetwork:
    """Training goes on from the weights of `parent`."""
    return OneNetwork(parent.network, copy.deepcopy(parent.network))


def fresh_like(parent: Checkpoint, seed: int) -> OneNetwork:
    """Training learns from `parent`, with a network of its architecture whose weights are drawn from `seed`."""
    return OneNetwork(parent.network, fresh_network(parent.metadata, seed))


def pair_of(parent: Checkpoint, parameters: AverageParameters) -> TwoNetworks:
    """v goes on from the weights of `parent`; so does f, unless `frozen_base` keeps it as it is.

    Raises:
        ParameterError: the frozen base was not trained under this σ.
        CheckpointError: the base that `parent` was trained with cannot be read, or is another network.
    """
    frozen = _frozen_base(parent, parameters) if parameters.frozen_base else None
    start = parent.network if frozen is None else frozen.network
    base = copy.deepcopy(start).requires_grad_(frozen is None)
    return TwoNetworks(start, base, copy.deepcopy(parent.network), frozen)


def fresh_network(metadata: CheckpointMetadata, seed: int) -> ImageClassifier:
    """The network that `metadata` describes, its weights drawn from `seed`; torch's global generator is not moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network_of(metadata)


def _frozen_base(parent: Checkpoint, parameters: AverageParameters) -> Checkpoint:
    """`parent` itself, or the network that `parent` was trained to be the average of."""
    base = parent if parent.metadata.base_sha256 is None else load_base(parent)
    found = base.metadata
    if (found.method, found.sigma) != (NoiseParameters.method, parameters.sigma):
        raise ParameterError(
            f"{base.path}: expected a base trained by noise with σ = {parameters.sigma:g}, got one trained by "
            f"{found.method} with σ = {found.sigma}"
        )
    return base
