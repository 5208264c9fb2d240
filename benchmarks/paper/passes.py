"""Noisy passes, kept: the vote and the probabilities of every pass about every image, from which all else is derived.

Passes are taken a few images at a time and written as they are taken, so that interrupted work goes on from them. Those
of an image depend on nothing but the network, σ, the seed and the image's index in its permutation.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically
from heatserve.certification.monte_carlo import alpha_left, certificate_of
from heatserve.certification.noise import source_of
from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.certification.voting import Classifier, DependentVotesError, each_by_itself, streams
from heatserve.export.calibration.ledger import CertifyRecipe, LedgerEntry, image_digest
from heatserve.export.runtime.answers import ModelImages
from heatserve.export.runtime.session import classifier, open_session

_BLOCK = 8
"""Images in a file: seconds of work for a ResNet-20 on a CPU."""
_MOST_COPIES, _MOST_NUMBERS = 512, 2**21
"""Noisy copies that go through a network together, and numbers in them."""


@dataclass(frozen=True)
class ImagePasses:
    """The noisy passes about one image."""

    image: str
    """Digest of the image."""
    votes: NDArray[np.int16]
    """The class that each pass is for, in order; −1: for none. [n₀ + n]."""
    average: Float64Array
    """Mean probability of each class over all passes, [K]."""
    seconds: float

    def counts(self, n0: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The histograms of the first n₀ votes and of the others, [K] each."""
        first, rest = (np.bincount(part[part >= 0], minlength=len(self.average)) for part in np.split(self.votes, [n0]))
        return first, rest


class PassKeeper:
    """The passes in a folder; as an executor of a `Certifier` it certifies with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(
        self, base: bytes, data: ModelImages, positions: list[int], recipe: CertifyRecipe
    ) -> Iterator[LedgerEntry]:
        """See `CertifyExecutor`."""
        for position, passes in zip(positions, self.passes(base, data, positions, recipe), strict=True):
            yield _entry(passes, data.first + position, int(data.labels[position]), data.images.shape[1:], recipe)

    def passes(
        self, base: bytes, data: ModelImages, positions: list[int], recipe: CertifyRecipe
    ) -> Iterator[ImagePasses]:
        """The passes about the images at rising `positions` of `data`, by the base classifier in ONNX.

        Raises:
            HeatserveError: a file is damaged, or about other images.
            DependentVotesError: see `each_by_itself`; the folder of what was kept so far is renamed.
        """
        folder = self._folder / f"{data.split}-{_key(recipe)}"
        network = each_by_itself(classifier(open_session(base)))
        for number, together in groupby(positions, lambda position: (data.first + position) // _BLOCK):
            path, wanted = folder / f"{number:06}.npz", list(together)
            kept = _read(path)
            missing = [position for position in wanted if data.first + position not in kept]
            try:
                for position in missing:
                    kept[data.first + position] = _take(network, data.images[position], data.first + position, recipe)
            except DependentVotesError:
                shutil.rmtree(f"{folder}.refused", ignore_errors=True)  # of an earlier run
                if folder.exists():
                    folder.rename(f"{folder}.refused")
                raise
            if missing:
                _write(path, kept)
            for position in wanted:
                found = kept[data.first + position]
                if found.image != image_digest(data.images[position]):
                    raise HeatserveError(
                        f"{path}: expected passes about the image {data.first + position} of {data.dataset}, got some "
                        "about another one: the images changed since; remove the folder"
                    )
                yield found


def _take(network: Classifier, image: Float32Array, index: int, recipe: CertifyRecipe) -> ImagePasses:
    begun, total = time.perf_counter(), recipe.n0 + recipe.n
    noise = source_of(recipe.sampling)
    (fill,) = streams(image[None], indices=[index], sigma=recipe.sigma, seed=recipe.seed, noise=noise)
    size = min(total, _MOST_COPIES, max(1, _MOST_NUMBERS // image.size))
    copies, votes, probabilities = np.empty((size, *image.shape), np.float32), [], np.zeros(1)
    for start in range(0, total, size):
        part = copies[: min(size, total - start)]
        fill(part)
        scores = network(part)
        votes.append(np.where(np.isnan(scores).any(1), -1, scores.argmax(1)))
        probabilities = probabilities + softmax(scores.astype(np.float64), axis=1).sum(0)
    seconds = time.perf_counter() - begun
    return ImagePasses(image_digest(image), np.concatenate(votes).astype(np.int16), probabilities / total, seconds)


def _entry(passes: ImagePasses, index: int, label: int, shape: tuple[int, ...], recipe: CertifyRecipe) -> LedgerEntry:
    noise = source_of(recipe.sampling)
    left = alpha_left(recipe.alpha, shape=shape, votes=recipe.n0 + recipe.n, sigma=recipe.sigma, noise=noise)
    found = certificate_of(*passes.counts(recipe.n0), sigma=recipe.sigma, n=recipe.n, alpha=left, top_k=recipe.top_k)
    return LedgerEntry(
        index=index,
        image=passes.image,
        label=label,
        predicted=found.label,
        radius=found.radius,
        p_lower=found.p_lower,
        guess=found.guess,
        classes=found.classes,
    )


def _key(recipe: CertifyRecipe) -> str:
    """Of what the passes depend on: the rule by which they are counted is none of it."""
    decisive = {name: value for name, value in asdict(recipe).items() if name not in ("alpha", "top_k", "n0", "n")}
    return hashlib.sha256(f"{decisive} {recipe.n0 + recipe.n}".encode()).hexdigest()[:16]


def _read(path: Path) -> dict[int, ImagePasses]:
    if not path.is_file():
        return {}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            columns = [file[name] for name in ("index", "image", "votes", "average", "seconds")]
        return {
            int(index): ImagePasses(str(image), votes, average, float(seconds))
            for index, image, votes, average, seconds in zip(*columns, strict=True)
        }
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile):
        raise HeatserveError(f"{path}: expected kept noisy passes, got a damaged file; remove it") from None


def _write(path: Path, kept: dict[int, ImagePasses]) -> None:
    content = io.BytesIO()
    order = sorted(kept)
    np.savez(
        content,
        index=np.array(order),
        image=np.array([kept[index].image for index in order]),
        votes=np.stack([kept[index].votes for index in order]),
        average=np.stack([kept[index].average for index in order]),
        seconds=np.array([kept[index].seconds for index in order]),
    )
    write_atomically(path, content.getvalue())
