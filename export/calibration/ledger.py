"""What Certify found for each image of a data set, kept in a file as it is found: nothing is certified twice.

The file is append-only JSON lines: first the recipe, then a line for each image, in any order. An image's line depends
on nothing but the recipe and the image: its noise has a stream of its own, and its batches hold no other's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TextIO

from scipy.special import ndtr

from heatserve.certification.errors import HeatserveError
from heatserve.certification.monte_carlo import ABSTAIN, certify
from heatserve.certification.noise import FORMER_KEYS, source_of
from heatserve.certification.progress import Progress
from heatserve.certification.radius import Float32Array
from heatserve.certification.sequential import decide
from heatserve.certification.voting import Classifier
from heatserve.export.card import BASE_NAME, MonteCarlo
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import ModelImages
from heatserve.export.runtime.session import classifier, open_session


class ResultsError(HeatserveError):
    """A results file that belongs to another recipe or to other images, or is damaged."""


@dataclass(frozen=True)
class Recipe:
    """Everything that an image's result depends on, besides the image. Any model of the same base shares it."""

    base_sha256: str
    sigma: float
    n0: int
    n: int
    alpha: float
    top_k: int
    seed: int
    sampling: str
    dataset: str
    split: str
    decides: float | None = None
    """The one radius that is proven or not, by `sequential.decide`; None: Certify."""


@dataclass(frozen=True)
class Row:
    """What Certify found at one image, see `monte_carlo.Certificate`; or a decision, whose radius is all or nothing."""

    index: int
    """Of the image in the data set as it was sampled, and of its noise."""
    image: str
    """The first 16 hex digits of the SHA-256 of the image's float32 bytes."""
    label: int
    """Its true class."""
    predicted: int
    """The class of the smoothed classifier, or ABSTAIN."""
    radius: float
    p_lower: float
    guess: int
    classes: tuple[int, ...]

    @property
    def right(self) -> bool:
        """Certified, and the true class is among those certified."""
        return self.predicted != ABSTAIN and self.label in self.classes


Work = Callable[[bytes, ModelImages, list[int], Recipe], Iterable[Row]]
"""Certifies the images at some indices with a base classifier (ONNX bytes), in any order."""


def recipe_of(model: ModelVersion, data: ModelImages, monte_carlo: MonteCarlo, *, top_k: int = 1) -> Recipe:
    """How the base classifier of `model` is certified on `data`."""
    return Recipe(
        base_sha256=model.card.base_sha256,
        sigma=model.card.sigma,
        n0=monte_carlo.n0,
        n=monte_carlo.n,
        alpha=monte_carlo.alpha,
        top_k=top_k,
        seed=monte_carlo.seed,
        sampling=monte_carlo.sampling,
        dataset=data.dataset,
        split=f"{data.split}, permutation {data.seed}",
        decides=monte_carlo.decides,
    )


def file_in(folder: Path, recipe: Recipe, data: ModelImages) -> Path:
    """The file of a recipe and of these images, or of more or fewer of the same, in a folder of many.

    Where there is one by the name that the recipe's former header gives, it is that.
    """
    first = _digest(data.images[0]) if len(data.images) else ""
    keys = [hashlib.sha256((header + first).encode()).hexdigest()[:16] for header in _headers(recipe)]
    path, *former = (folder / f"{data.split}-{key}.jsonl" for key in keys)
    return next((other for other in former if other.exists()), path)


def certify_images(
    model: ModelVersion,
    data: ModelImages,
    recipe: Recipe,
    *,
    results: Path | None,
    progress: Progress,
    work: Work | None = None,
) -> list[Row]:
    """A row for each image of `data`, in order: those that `results` holds are read, the others certified and appended.

    Args:
        model: its base classifier is certified.
        data: more images than last time continue the same file, if they are the same images at first.
        recipe: see `recipe_of`.
        results: the results file; made if absent. None: nothing is kept.
        progress: see `Progress`.
        work: who certifies; by default this process, image by image.

    Raises:
        ResultsError: `results` holds another recipe or other images, or is damaged.
    """
    rows = _open(results, recipe, data) if results else {}
    left = [index for index in range(len(data.images)) if index not in rows]
    base = (model.path / BASE_NAME).read_bytes()
    found = (work or certify_here)(base, data, left, recipe)
    with results.open("a") if results else nullcontext() as file:
        for row in progress(_appended(found, file), len(left), f"Certify, {data.split} images"):
            rows[row.index] = row
    return [rows[index] for index in range(len(data.images))]


def certify_here(base: bytes, data: ModelImages, indices: list[int], recipe: Recipe) -> Iterator[Row]:
    """The rows of the images at `indices`, one after the other."""
    for chunk in chunks(data, indices, 1):
        yield from certify_chunk(base, *chunk, recipe)


def certify_chunk(
    base: bytes, images: Float32Array, labels: list[int], indices: list[int], recipe: Recipe
) -> list[Row]:
    """The rows of a few images [N, C, H, W], each certified by itself."""
    network = _classifier(base)
    return [
        _certify_image(network, image, label, index, recipe)
        for image, label, index in zip(images, labels, indices, strict=True)
    ]


def chunks(data: ModelImages, indices: list[int], size: int) -> Iterator[tuple[Float32Array, list[int], list[int]]]:
    """Arguments of `certify_chunk`."""
    for start in range(0, len(indices), size):
        part = indices[start : start + size]
        yield data.images[part], data.labels[part].tolist(), part


@lru_cache(maxsize=1)
def _classifier(base: bytes) -> Classifier:
    return classifier(open_session(base))


def _certify_image(network: Classifier, image: Float32Array, label: int, index: int, recipe: Recipe) -> Row:
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
    row = partial(Row, index=index, image=_digest(image), label=label)
    if recipe.decides is None:
        found = next(certify(network, image[None], **how))
        return row(
            predicted=found.label,
            radius=found.radius,
            p_lower=found.p_lower,
            guess=found.guess,
            classes=found.classes,
        )
    decision = next(decide(network, image[None], radius=recipe.decides, **how))
    return row(
        predicted=decision.classes[0] if decision.answer else ABSTAIN,
        radius=recipe.decides if decision.answer else 0.0,
        p_lower=float(ndtr(recipe.decides / recipe.sigma)) if decision.answer else 0.0,
        guess=decision.guess,
        classes=decision.classes,
    )


def _digest(image: Float32Array) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def _headers(recipe: Recipe) -> list[str]:
    """The first line of a file: as it is written, then as it was written when a sentence named the noise source."""
    fields = {name: value for name, value in asdict(recipe).items() if value is not None}
    names = [recipe.sampling, *(name for name, key in FORMER_KEYS.items() if key == recipe.sampling)]
    return [json.dumps({"recipe": fields | {"sampling": name}}) + "\n" for name in names]


def _appended(rows: Iterable[Row], file: TextIO | None) -> Iterator[Row]:
    """Pass rows through, each written as a line before the next is asked for."""
    for row in rows:
        if file:
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()
        yield row


def _open(path: Path, recipe: Recipe, data: ModelImages) -> dict[int, Row]:
    """The rows of a results file for `data`; the file is made if absent, a last line that a kill tore is cut off.

    Raises:
        ResultsError: see `certify_images`.
    """
    content = path.read_bytes() if path.exists() else b""
    headers = [header.encode() for header in _headers(recipe)]
    if any(header.startswith(content) for header in headers):  # absent, empty, torn in its first line, or no results
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(headers[0])
        return {}
    whole = content[: content.rfind(b"\n") + 1]
    first, *lines = whole.decode(errors="replace").splitlines() or [""]
    _check_recipe(path, first, recipe)
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    rows: dict[int, Row] = {}
    for number, line in enumerate(lines, start=2):
        row = _parse(path, number, line)
        if row.index >= len(data.images):
            continue
        if rows.setdefault(row.index, row) != row:
            raise ResultsError(f"{path}, line {number}: expected one result for image {row.index}, got another one")
        if (row.image, row.label) != (_digest(data.images[row.index]), data.labels[row.index]):
            raise ResultsError(
                f"{path}, line {number}: holds the result of another image {row.index}; name another file"
            )
    return rows


def _check_recipe(path: Path, header: str, recipe: Recipe) -> None:
    try:
        found = {"decides": None, **json.loads(header)["recipe"]}
        found["sampling"] = FORMER_KEYS.get(found["sampling"], found["sampling"])
        differences = [
            f"{name} {found[name]}, not {expected}"
            for name, expected in asdict(recipe).items()
            if found[name] != expected
        ]
    except (ValueError, KeyError, TypeError):
        raise ResultsError(f"{path}: expected the results of certify-dataset, got another file") from None
    if differences:
        raise ResultsError(f"{path}: holds results of another recipe: {'; '.join(differences)}; name another file")


def _parse(path: Path, number: int, line: str) -> Row:
    try:
        fields = json.loads(line)
        return Row(**{**fields, "classes": tuple(fields["classes"])})
    except (ValueError, KeyError, TypeError):
        raise ResultsError(f"{path}, line {number}: expected the result of an image, got {line[:60]!r}") from None
