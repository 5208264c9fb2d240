"""How far PGD, DDN and AutoAttack have to go until the true class is no longer among the k best.

As in the paper (section 3.4) a deterministic model is attacked along the gradient of its one pass (8), a stochastic one
along gradients averaged over noise (9). What is attacked is the network of the checkpoint; what is found counts where
the graph that is served answers otherwise, or of a stochastic model the probabilities averaged over further noise.
Images are attacked a few at a time and kept as they are, so that interrupted work goes on from them.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import nn
from torch.fx.experimental.optimization import fuse

from heatserve.benchmarks.attack.autoattack import AutoAttackL2, Effort
from heatserve.benchmarks.attack.distances import farther_out
from heatserve.benchmarks.attack.pgd_ddn import DDN, PGD, NoiseAveraged, TopKMisclassification
from heatserve.benchmarks.paper.certifying import among_best
from heatserve.benchmarks.records.paper import DistanceSettings
from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.certification.progress import Progress
from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.certification.voting import Classifier
from heatserve.export.calibration.ledger import image_digest
from heatserve.export.runtime.answers import ModelImages
from heatserve.export.runtime.session import Runner
from heatserve.training.architectures.network import memory_format_of

_MOST_IMAGES, _MOST_COPIES, _MOST_NUMBERS = 64, 1024, 2**21
"""What is attacked together: images, images with their noisy copies, and numbers in all of these."""

_STRETCHES = (1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
"""How many times as far as an attack has gone another answer is looked for: under noise DDN ends with what a lucky draw
misclassified, on the near side of the boundary."""

_LOGGER = logging.getLogger(__name__)

ClassScores = Callable[[Float32Array, np.random.Generator], NDArray[Any]]
"""What decides: from images [N, C, H, W] to the scores of their classes [N, K], perhaps by noise."""


@dataclass(frozen=True)
class Attackable:
    """A network as an attack sees it, and what decides whether the attack succeeded."""

    network: nn.Module
    """From images [N, C, H, W] to logits [N, K], with gradients; see `quick`."""
    scores: ClassScores
    sha256: str
    """Of the checkpoint of the network."""
    sigma: float | None
    """Of the noise that a stochastic model averages over; None: a deterministic one."""


def quick(network: nn.Module) -> nn.Module:
    """A copy of a network in eval mode whose gradient with respect to images takes less time (ResNet-20: 0.7 of it).

    Batch norms are folded into convolutions, and weights laid out as they are best; where the code of a network cannot
    be traced, nothing is folded. What an attack finds with it is decided by what is served in any case.
    """
    copied: nn.Module = copy.deepcopy(network).eval().to(memory_format=memory_format_of(network))  # type: ignore[call-overload]
    try:
        copied = fuse(copied)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:  # what the tracer, or code of a user, raises
        _LOGGER.debug("attacked without folded batch norms: %s", error)
    return copied.requires_grad_(False)


def by_votes(base: Classifier, *, sigma: float, votes: int) -> ClassScores:
    """Probabilities averaged over so many noisy passes of each image."""

    def scores(images: Float32Array, noise: np.random.Generator) -> NDArray[Any]:
        found = []
        for image in images:
            eta = noise.standard_normal((votes, *image.shape), dtype=np.float32)
            found.append(softmax(base(image + np.float32(sigma) * eta), axis=1).mean(0))
        return np.stack(found)

    return scores


def by_graph(serve: Runner) -> ClassScores:
    """The probabilities of the graph that is served."""
    return lambda images, _: serve(images)["probabilities"]


@dataclass(frozen=True)
class DistanceAttack:
    """One attack with all that decides its distances."""

    name: Literal["PGD", "DDN", "AutoAttack"]
    settings: DistanceSettings
    effort: Effort = field(default_factory=Effort)
    """Of AutoAttack; the default is its standard version."""

    @property
    def described(self) -> str:
        """What it is, for a reader, and for the name under which its results are kept."""
        how = self.settings
        if self.name == "PGD":
            text = f"PGD, L2, the least of {2**PGD.rounds - 1} radii up to {how.limit:g} in {how.steps} steps each"
        elif self.name == "DDN":
            text = f"DDN, {how.steps} steps, up to {how.limit:g}, then on in its direction until that is confirmed"
        else:
            kind = "standard version" if self.effort == Effort() else f"shortened, {self.effort}"
            text = f"AutoAttack L2, {kind}, within {how.limit:g}"
        averaged = f"; gradients over {how.noise_samples} noisy passes, equation (9)" if how.noise_samples else ""
        return f"{text}; misclassified: not among the {how.top_k} best{averaged}"

    def images_at_once(self, numbers: int) -> int:
        """How many images of so many numbers each are attacked, and kept, together."""
        if self.name == "AutoAttack":  # thousands of passes, whose number does not depend on that of the images
            return max(16, min(256, _MOST_NUMBERS // 8 // numbers))
        copies = max(1, min(_MOST_COPIES, _MOST_NUMBERS // numbers))
        return max(1, min(_MOST_IMAGES, copies // (self.settings.noise_samples or 1)))

    def distances(
        self, target: Attackable, images: Float32Array, labels: NDArray[np.int64], *, block: int
    ) -> Float64Array:
        """Distance of the nearest misclassified image that was found, of each; 0: as it is; inf: none, [N]."""
        noise = np.random.default_rng([self.settings.seed, 2, block])
        torch.manual_seed(self.settings.seed + block)  # foolbox draws a direction where a gradient vanishes
        k = self.settings.top_k
        distance = np.where(among_best(target.scores(images, noise), labels, k=k), np.inf, 0.0)
        (right,) = np.nonzero(distance)
        if right.size:
            attack = self._autoattacked if self.name == "AutoAttack" else self._attacked
            distance[right] = attack(target, images[right], labels[right], noise, block)
        return distance

    def _attacked(
        self,
        target: Attackable,
        images: Float32Array,
        labels: NDArray[np.int64],
        noise: np.random.Generator,
        block: int,
    ) -> Float64Array:
        how, network = self.settings, target.network
        if target.sigma is not None and how.noise_samples:
            generator = torch.Generator().manual_seed(self.settings.seed + block)
            network = NoiseAveraged(network, sigma=target.sigma, samples=how.noise_samples, generator=generator)
        attack = PGD(steps=how.steps) if self.name == "PGD" else DDN(steps=how.steps)
        found = attack(
            network,
            torch.from_numpy(images),
            torch.from_numpy(labels),
            criterion=partial(TopKMisclassification, k=how.top_k),
            epsilon=how.limit,
        )

        def changes(tried: Float32Array, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
            return ~among_best(target.scores(tried, noise), labels[rows], k=how.top_k)

        return farther_out(images, found.detach().numpy(), changes, epsilon=how.limit, stretches=_STRETCHES)[1]

    def _autoattacked(
        self,
        target: Attackable,
        images: Float32Array,
        labels: NDArray[np.int64],
        noise: np.random.Generator,
        block: int,
    ) -> Float64Array:
        how, nearest = self.settings, np.full(len(images), np.inf)
        with torch.no_grad():
            classes = target.network(torch.from_numpy(images[:1])).shape[1]
        attack = AutoAttackL2(
            target.network,
            classes=classes,
            pixels=images[0].size,
            seed=how.seed + block,
            effort=self.effort,
        )
        for found in attack.attack(images, labels, np.full(len(images), how.limit)):
            tried = np.clip(found.images, 0, 1).astype(np.float32)
            apart = (tried.astype(np.float64) - images[found.rows]).reshape(len(tried), -1)
            distance = np.linalg.norm(apart, axis=1)
            other = ~among_best(target.scores(tried, noise), labels[found.rows], k=how.top_k)
            counts = other & (distance <= how.limit * (1 + 1e-6))
            np.minimum.at(nearest, found.rows[counts], distance[counts])
        return nearest


class DistanceKeeper:
    """The distances in a folder, image by image."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def distances(
        self, attack: DistanceAttack, target: Attackable, data: ModelImages, progress: Progress
    ) -> tuple[Float64Array, float]:
        """The distances of all images of `data`, [N], and the seconds that they took; what is kept is not done again.

        Raises:
            HeatserveError: a file is damaged, or about other images or classes.
        """
        key = hashlib.sha256(f"{_decisive(attack, target, data)}".encode()).hexdigest()[:16]
        folder = self._folder / f"{attack.name.lower()}-{key}"
        size = attack.images_at_once(data.images[0].size)
        starts = range(0, len(data), size)
        found, seconds = [], 0.0
        for start in progress(starts, len(starts), f"{attack.name}, {len(data)} images"):
            images, labels = data.images[start : start + size], data.labels[start : start + size]
            digests = [f"{image_digest(image)} {label}" for image, label in zip(images, labels, strict=True)]
            path = folder / f"{start // size:06}.npz"
            kept = _read(path, digests)
            if kept is None:
                begun = time.perf_counter()
                distance = attack.distances(target, images, labels, block=start // size)
                kept = (distance, time.perf_counter() - begun)
                _write(path, digests, *kept)
            found.append(kept[0])
            seconds += kept[1]
        return np.concatenate(found), seconds


def _decisive(attack: DistanceAttack, target: Attackable, data: ModelImages) -> dict[str, Any]:
    settings = {name: value for name, value in asdict(attack.settings).items() if name != "images"}
    where = (data.dataset, data.split, data.seed, data.first)
    return {"what": attack.described, "of": target.sha256, "sigma": target.sigma, "on": where, **settings}


def _read(path: Path, digests: list[str]) -> tuple[Float64Array, float] | None:
    """What is kept of these images with their classes; None: nothing is, or of fewer of them."""
    if not path.is_file():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            images, distances, seconds = file["images"].tolist(), file["distances"], float(file["seconds"])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile):
        raise HeatserveError(f"{path}: expected kept distances, got a damaged file; remove it") from None
    if images == digests:
        return distances, seconds
    if images[: len(digests)] == digests or digests[: len(images)] == images:
        return None  # another number of images was asked for, and the last ones are attacked together with others now
    raise HeatserveError(
        f"{path}: expected distances of the images and classes of today, got some of others: they changed; remove the "
        "folder"
    )


def _write(path: Path, digests: list[str], distances: Float64Array, seconds: float) -> None:
    content = io.BytesIO()
    np.savez(content, images=np.array(digests), distances=distances, seconds=np.array(seconds))
    write_atomically(path, content.getvalue())
