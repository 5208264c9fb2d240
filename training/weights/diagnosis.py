"""Whether imported weights answer as they should: test accuracy, and what a low one may come from.

Four mistakes leave every tensor in its place and no error: classes in another order, another mean or std, shortcuts or
poolings that have no tensors, and a network that is not what its file says. The first two are tried: an order of the
classes is found on one half of the images and judged on the other, by the assignment that most of its confusion matrix
is on (Kuhn 1955); other means and stds are judged by a sign test on the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binom

from heatserve.certification.progress import Progress, unseen
from heatserve.training.architectures.network import ImageClassifier
from heatserve.training.channels import IMAGENET_MEAN, IMAGENET_STD
from heatserve.training.checkpoint import Checkpoint, CheckpointError
from heatserve.training.data.errors import DataError
from heatserve.training.data.splits import ImageData
from heatserve.training.weights.normalisation import Statistics

_Answers = NDArray[np.int64]
"""A class for each image [N]."""

_TRIAL_IMAGES = 256
_BATCH = 64
_LEVEL = 0.001
"""Probability that the sign test finds something better where nothing is."""
_WORTH = 0.02
"""The smallest share of images by which something is worth a hint."""
_ORDERED = 0.25
"""Part of the way from chance to 1 from which an order of the classes is named: even random answers have some."""
_LOW = 0.5
"""Accuracy below which structure is doubted."""
_COLOUR: dict[str, Statistics] = {
    "ImageNet's": (IMAGENET_MEAN, IMAGENET_STD),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
}
_ANY = {"½ and ½": (0.5, 0.5), "0 and 1, not normalised": (0.0, 1.0), "pixels from 0 to 255": (0.0, 1 / 255)}
_GREY = {"MNIST's": (0.1307, 0.3081), "Fashion-MNIST's": (0.286, 0.353)}


@dataclass(frozen=True)
class OtherOrder:
    """An order of the classes in which more answers are right."""

    outputs: tuple[str, ...]
    """The class that each output seems to be for."""
    accuracy: float
    """The share of right answers with it, and with the other mean and std, where there is one; each half of the images
    by the order found on the other half."""


@dataclass(frozen=True)
class OtherNormalisation:
    """Mean and std with which more answers are right."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    accuracy: float
    """The share of right answers with it, and with the other order of the classes, where there is one."""


@dataclass(frozen=True)
class Diagnosis:
    """What a network answers on test images, and what would do better."""

    images: int
    accuracy: float
    """Share of right answers."""
    commonest: str
    """The class that is answered most."""
    commonest_share: float
    """The share of the images that are answered so."""
    order: OtherOrder | None
    """None: the order of the classes is right, as far as this shows."""
    normalisation: OtherNormalisation | None
    """None: none of those tried is better."""

    @property
    def doubtful_structure(self) -> bool:
        """Whether less than half of the answers are right, for no other reason that was found."""
        return self.accuracy < _LOW and self.order is None and self.normalisation is None


def diagnose(checkpoint: Checkpoint, data: ImageData, *, images: int = 1000, progress: Progress = unseen) -> Diagnosis:
    """Test a network on the first images of a split, which are a random subset of it.

    Args:
        checkpoint: the network; on the CPU.
        data: the split, with the network's classes in its order.
        images: how many of the split are taken, at most.
        progress: follows the batches.

    Raises:
        CheckpointError: the network answers NaN or infinity.
        DataError: no images, or other classes than the network's.
    """
    names, network = checkpoint.metadata.class_names, checkpoint.network
    if data.class_names != names or not len(data):
        raise DataError(f"{data.name}: expected test images of the network's {len(names)} classes, in its order")
    taken = range(min(images, len(data)))
    answers, labels = _answers(checkpoint, network, data, taken, progress, "testing")
    normalisation, seen = _better_normalisation(checkpoint, data, answers, labels, progress)
    counts = np.bincount(answers, minlength=len(names))
    return Diagnosis(
        images=len(taken),
        accuracy=float((answers == labels).mean()),
        commonest=names[int(counts.argmax())],
        commonest_share=float(counts.max() / len(answers)),
        order=_better_order(seen, labels, names),
        normalisation=normalisation,
    )


def _answers(
    checkpoint: Checkpoint,
    network: ImageClassifier,
    data: ImageData,
    indices: Sequence[int],
    progress: Progress,
    description: str,
) -> tuple[_Answers, _Answers]:
    """The class that the network answers for each of the images, and the true ones."""
    found, labels = [], []
    if not indices:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    batches = torch.split(torch.as_tensor(indices), _BATCH)
    with torch.no_grad():
        for images, true in progress(data.images.batches(batches), len(batches), description):
            logits = network(images)
            if not torch.isfinite(logits).all():
                raise CheckpointError(
                    f"{checkpoint.path}: expected finite logits, but it answers test images with NaN or infinity"
                )
            found.append(logits.argmax(1))
            labels.append(true)
    return torch.cat(found).numpy(), torch.cat(labels).numpy()


def _assigned(answers: _Answers, labels: _Answers, classes: int) -> _Answers:
    """The class that each output is for, so that most answers are right; its own where the images do not say."""
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (answers, labels), 1)
    _, columns = linear_sum_assignment(confusion + 1e-3 * np.eye(classes), maximize=True)
    assigned: _Answers = columns
    return assigned


def _right_in_other_order(answers: _Answers, labels: _Answers, classes: int) -> NDArray[np.bool_]:
    """Which answers are right in the best order of the classes, found on the other half of the images."""
    right = np.zeros(len(answers), bool)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - (part.start or 0), None, 2)
        right[part] = _assigned(answers[other], labels[other], classes)[answers[part]] == labels[part]
    return right


def _is_better(new: NDArray[np.bool_], old: NDArray[np.bool_]) -> bool:
    """Whether more answers are right than before, by a sign test and by enough to be worth a hint."""
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    return gained - lost >= _WORTH * len(new) and float(binom.sf(gained - 1, gained + lost, 0.5)) < _LEVEL


def _better_order(answers: _Answers, labels: _Answers, names: Sequence[str]) -> OtherOrder | None:
    permuted = _right_in_other_order(answers, labels, len(names))
    if not _is_order(permuted, answers == labels, len(names)):
        return None
    return OtherOrder(tuple(names[i] for i in _assigned(answers, labels, len(names))), float(permuted.mean()))


def _best(answers: _Answers, labels: _Answers, classes: int) -> NDArray[np.bool_]:
    """Which answers are right, in another order of the classes where that is better."""
    right, permuted = answers == labels, _right_in_other_order(answers, labels, classes)
    return permuted if _is_order(permuted, right, classes) else right


def _is_order(permuted: NDArray[np.bool_], right: NDArray[np.bool_], classes: int) -> bool:
    return permuted.mean() >= _ORDERED + (1 - _ORDERED) / classes and _is_better(permuted, right)


def _better_normalisation(
    checkpoint: Checkpoint, data: ImageData, answers: _Answers, labels: _Answers, progress: Progress
) -> tuple[OtherNormalisation | None, _Answers]:
    """The best of the usual means and stds, where it is better than the network's own, and the answers with it.

    All are tried on few images; the one that is best there, and by enough, on all that the network was tested on.
    """
    metadata, first = checkpoint.metadata, min(_TRIAL_IMAGES, len(labels))

    def right(some: _Answers) -> NDArray[np.bool_]:
        return _best(some, labels[: len(some)], metadata.num_classes)

    def tried(name: str, indices: Sequence[int]) -> _Answers:
        network = ImageClassifier(checkpoint.network.backbone, *usual[name]).eval()
        return _answers(checkpoint, network, data, indices, progress, f"trying mean and std: {name}")[0]

    usual = _usual(metadata.input_shape[0], (metadata.mean, metadata.std))
    found = {name: tried(name, range(first)) for name in usual}
    best = max(found, key=lambda name: right(found[name]).sum())
    if right(found[best]).mean() - right(answers[:first]).mean() < _WORTH:
        return None, answers
    others = np.concatenate([found[best], tried(best, range(first, len(labels)))])
    if not _is_better(right(others), right(answers)):
        return None, answers
    return OtherNormalisation(best, *usual[best], float(right(others).mean())), others


def _usual(channels: int, own: Statistics) -> dict[str, Statistics]:
    """Means and stds that networks for images of so many channels are trained with, but for `own`."""
    usual = {name: ((mean,) * channels, (std,) * channels) for name, (mean, std) in _ANY.items()}
    usual |= _COLOUR if channels == 3 else {}
    usual |= {name: ((mean,), (std,)) for name, (mean, std) in _GREY.items() if channels == 1}
    return {name: statistics for name, statistics in usual.items() if statistics != own}
