"""Certify on the images of a data set: each image is certified once, and what was found is kept in a ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from scipy.special import ndtr

from heatserve.certification.monte_carlo import ABSTAIN, certify
from heatserve.certification.noise import source_of
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.radius import Float32Array
from heatserve.certification.sequential import decide
from heatserve.certification.voting import Classifier, DependentVotesError, each_by_itself
from heatserve.export.calibration.ledger import (
    CertifyRecipe,
    LedgerEntry,
    append_entries,
    image_digest,
    ledger_in,
    open_ledger,
)
from heatserve.export.card import BASE_NAME, read_verified
from heatserve.export.card_parts import MonteCarlo
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.repository.smoothed import SmoothedWork, require_smoothed
from heatserve.export.runtime.answers import ModelImages
from heatserve.export.runtime.session import classifier, open_session

CertifyExecutor = Callable[[bytes, ModelImages, list[int], CertifyRecipe], Iterable[LedgerEntry]]
"""Who does the work: certifies the images at some positions with a base classifier (ONNX bytes), in any order."""


@dataclass(frozen=True)
class Certifier:
    """How Certify is run on images, where what it finds is kept, and how its work is followed.

    Attributes:
        monte_carlo: n₀, n, α, seed and noise of Certify; or of the decision on one radius.
        folder: the folder of ledgers, one for each recipe and set of images: interrupted work goes on from them, and
            models of one base share them. None: nothing is kept, unless there is a `file`.
        file: the ledger itself, where it is to be this one; made if absent.
        top_k: k, as in `monte_carlo.certify`.
        executor: who certifies; None: this process, image by image.
        progress: see `Progress`.
    """

    monte_carlo: MonteCarlo
    folder: Path | None = None
    file: Path | None = None
    top_k: int = 1
    executor: CertifyExecutor | None = None
    progress: Progress = unseen

    def running(self, monte_carlo: MonteCarlo) -> Certifier:
        """A certifier that differs from this one in how Certify is run."""
        return replace(self, monte_carlo=monte_carlo)

    def recipe(self, model: ModelVersion, data: ModelImages) -> CertifyRecipe:
        """How the base classifier of `model` is certified on `data`."""
        how = self.monte_carlo
        return CertifyRecipe(
            base_sha256=model.card.base_sha256,
            sigma=model.card.sigma,
            n0=how.n0,
            n=how.n,
            alpha=how.alpha,
            top_k=self.top_k,
            seed=how.seed,
            sampling=how.sampling,
            dataset=data.dataset,
            split=f"{data.split}, permutation {data.seed}",
            decides=how.decides,
        )

    def entries(
        self, model: ModelVersion, data: ModelImages, *, positions: Sequence[int] | None = None
    ) -> list[LedgerEntry]:
        """An entry for each image, in order: those that the ledger holds are read, the others certified and appended.

        Args:
            model: its base classifier is certified.
            data: any part of a permutation; all of them share one ledger.
            positions: those of the images in `data` that an entry is wanted for; None: all of them.

        Raises:
            CardError: the base classifier has changed since the card was verified.
            LedgerError: the ledger holds another recipe or other images, or is damaged.
            DeterministicError: the model has no base classifier.
            DependentVotesError: see `each_by_itself`; the ledger is renamed, for what it holds is proven by such votes.
        """
        require_smoothed(model, SmoothedWork.VOTES)
        recipe = self.recipe(model, data)
        ledger = self.file or (ledger_in(self.folder, recipe, data) if self.folder else None)
        entries = open_ledger(ledger, recipe, data) if ledger else {}
        wanted = [data.first + position for position in (range(len(data)) if positions is None else positions)]
        left = [index - data.first for index in wanted if index not in entries]
        base = read_verified(model.path / BASE_NAME, model.card.base_sha256)
        found = append_entries(ledger, (self.executor or certify_here)(base, data, left, recipe))
        try:
            for entry in self.progress(found, len(left), f"Certify, {data.split} images"):
                entries[entry.index] = entry
        except DependentVotesError as error:
            if ledger is None:
                raise
            kept = ledger.rename(f"{ledger}.refused")
            raise DependentVotesError(f"{error}; nothing goes on from what was found so far, now {kept}") from None
        return [entries[index] for index in wanted]


def certify_here(base: bytes, data: ModelImages, positions: list[int], recipe: CertifyRecipe) -> Iterator[LedgerEntry]:
    """The entries of the images at some positions in `data`, one after the other."""
    for chunk in chunks(data, positions, 1):
        yield from certify_chunk(base, *chunk, recipe)


def certify_chunk(
    base: bytes, images: Float32Array, labels: list[int], indices: list[int], recipe: CertifyRecipe
) -> list[LedgerEntry]:
    """The entries of a few images [N, C, H, W], each certified by itself, with the noise of its index."""
    network = _classifier(base)
    return [
        _certify_image(network, image, label, index, recipe)
        for image, label, index in zip(images, labels, indices, strict=True)
    ]


def chunks(data: ModelImages, positions: list[int], size: int) -> Iterator[tuple[Float32Array, list[int], list[int]]]:
    """The images at some positions in `data`, at most `size` at a time, as arguments of `certify_chunk`."""
    for start in range(0, len(positions), size):
        part = positions[start : start + size]
        yield data.images[part], data.labels[part].tolist(), [data.first + position for position in part]


@lru_cache(maxsize=1)
def _classifier(base: bytes) -> Classifier:
    return each_by_itself(classifier(open_session(base)))


def _certify_image(
    network: Classifier, image: Float32Array, label: int, index: int, recipe: CertifyRecipe
) -> LedgerEntry:
    how: dict[str, Any] = {
        "sigma": recipe.sigma,
        "n0": recipe.n0,
        "n": recipe.n,
        "alpha": recipe.alpha,
        "top_k": recipe.top_k,
        "seed": recipe.seed,
        "indices": [index],
        "noise": source_of(recipe.sampling),
    }
    entry = partial(LedgerEntry, index=index, image=image_digest(image), label=label)
    if recipe.decides is None:
        found = next(certify(network, image[None], **how))
        return entry(
            predicted=found.label,
            radius=found.radius,
            p_lower=found.p_lower,
            guess=found.guess,
            classes=found.classes,
        )
    decision = next(decide(network, image[None], radius=recipe.decides, **how))
    return entry(
        predicted=decision.classes[0] if decision.outcome else ABSTAIN,
        radius=recipe.decides if decision.outcome else 0.0,
        p_lower=float(ndtr(recipe.decides / recipe.sigma)) if decision.outcome else 0.0,
        guess=decision.guess,
        classes=decision.classes,
    )
