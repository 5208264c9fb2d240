"""Certify a whole test set: resumable at the image, on this machine or on a Ray cluster, with the same results.

The results file is append-only JSON lines: first the recipe, then a line for each image, in any order. An image's line
depends on nothing but the recipe and the image: its noise has a stream of its own, and its batches hold no other's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from certification.errors import HeatserveError
from certification.monte_carlo import ABSTAIN, certify
from certification.noise import source_of
from certification.radius import Float32Array
from certification.voting import Classifier
from export.calibrating import LabelledImages, check_shape
from export.card import BASE_NAME, MonteCarlo
from export.repository import ModelVersion
from export.session import classifier, open_session

RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0)
CHUNK = 4
"""Images in one task of a cluster."""
RETRIES = 3
"""How often a task is run again whose worker died."""


class ResultsError(HeatserveError):
    """A results file that belongs to another recipe, or is damaged."""


@dataclass(frozen=True)
class Recipe:
    """Everything that an image's result depends on, besides the image."""

    model: str
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


@dataclass(frozen=True)
class Row:
    """What Certify found at one image; see `monte_carlo.Certificate`."""

    index: int
    """Of the image in the test set as it was sampled, and of its noise."""
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


Progress = Callable[[Iterable[Row], int, str], Iterable[Row]]
"""Wraps an iterable of known length and description, to show how far it is."""


def certify_dataset(
    model: ModelVersion,
    data: LabelledImages,
    results: Path,
    *,
    monte_carlo: MonteCarlo,
    top_k: int = 1,
    ray_address: str | None = None,
    progress: Progress = lambda rows, _, __: rows,
) -> dict[str, Any]:
    """Certify the images of `data` that `results` does not hold yet, append each, and summarise them all.

    Args:
        model: its base classifier is certified.
        data: more images than last time continue the same file, if they are the same images at first.
        results: the results file; made if absent.
        monte_carlo: n₀, n, α, seed and sampling.
        top_k: k, as in `monte_carlo.certify`.
        ray_address: of a running Ray cluster, or `local` to start one here; by default this process does the work. A
            task whose worker dies is run again, `RETRIES` times at most.
        progress: see `Progress`.

    Raises:
        ResultsError: `results` holds another recipe, or is damaged.
        HeatserveError: images of another shape than the model's.
    """
    check_shape(model, data)
    recipe = Recipe(
        model=model.name,
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
    )
    rows = {index: row for index, row in _open(results, recipe).items() if index < len(data.images)}
    left = [index for index in range(len(data.images)) if index not in rows]
    base = (model.path / BASE_NAME).read_bytes()
    work = _here(base, data, left, recipe) if ray_address is None else _on_ray(ray_address, base, data, left, recipe)
    with results.open("a") as file:
        for row in progress(_appended(work, file), len(left), f"Certify, {data.split} images"):
            rows[row.index] = row
    return summary(recipe, [rows[index] for index in sorted(rows)])


def certify_chunk(
    base: bytes, images: Float32Array, labels: list[int], indices: list[int], recipe: Recipe
) -> list[Row]:
    """The rows of a few images [N, C, H, W], each certified by itself."""
    network = _classifier(base)
    return [
        _certify_image(network, image, label, index, recipe)
        for image, label, index in zip(images, labels, indices, strict=True)
    ]


def summary(recipe: Recipe, rows: list[Row]) -> dict[str, Any]:
    """Certified accuracy at `RADII` (right, and a positive radius of at least r), and what it was computed from."""
    count = max(len(rows), 1)
    return {
        "recipe": asdict(recipe),
        "images": len(rows),
        "abstained": sum(row.predicted == ABSTAIN for row in rows),
        "mean_radius": sum(row.radius for row in rows) / count,
        "radii": RADII,
        "certified_accuracy": [sum(row.right and row.radius >= r for row in rows) / count for r in RADII],
    }


@lru_cache(maxsize=1)
def _classifier(base: bytes) -> Classifier:
    return classifier(open_session(base))


def _certify_image(network: Classifier, image: Float32Array, label: int, index: int, recipe: Recipe) -> Row:
    certificate = next(
        certify(
            network,
            image[None],
            sigma=recipe.sigma,
            n0=recipe.n0,
            n=recipe.n,
            alpha=recipe.alpha,
            top_k=recipe.top_k,
            seed=recipe.seed,
            indices=[index],
            noise=source_of(recipe.sampling),
        )
    )
    return Row(
        index=index,
        label=label,
        predicted=certificate.label,
        radius=certificate.radius,
        p_lower=certificate.p_lower,
        guess=certificate.guess,
        classes=certificate.classes,
    )


def _chunks(data: LabelledImages, indices: list[int], size: int) -> Iterator[tuple[Float32Array, list[int], list[int]]]:
    """Arguments of `certify_chunk`."""
    for start in range(0, len(indices), size):
        part = indices[start : start + size]
        yield data.images[part], data.labels[part].tolist(), part


def _here(base: bytes, data: LabelledImages, indices: list[int], recipe: Recipe) -> Iterator[Row]:
    for chunk in _chunks(data, indices, 1):
        yield from certify_chunk(base, *chunk, recipe)


def _on_ray(address: str, base: bytes, data: LabelledImages, indices: list[int], recipe: Recipe) -> Iterator[Row]:
    """Rows as tasks of a cluster finish; twice as many tasks are submitted as it has processors."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        cluster = ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise HeatserveError(f"ray: expected the address of a Ray cluster, got {address!r}: {error}") from None
    with cluster:
        task, shared = ray.remote(max_retries=RETRIES)(certify_chunk), ray.put(base)
        processors = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        waiting, running = _chunks(data, indices, CHUNK), list[Any]()
        while True:
            for chunk in islice(waiting, 2 * max(1, processors) - len(running)):
                running.append(task.remote(shared, *chunk, recipe))
            if not running:
                return
            (finished,), running = ray.wait(running)
            try:
                rows: list[Row] = ray.get(finished)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise HeatserveError(f"ray: a task was lost {RETRIES + 1} times: {error}") from None
            yield from rows


def _appended(rows: Iterable[Row], file: TextIO) -> Iterator[Row]:
    """Pass rows through, each written as a line before the next is asked for."""
    for row in rows:
        file.write(json.dumps(asdict(row)) + "\n")
        file.flush()
        yield row


def _open(path: Path, recipe: Recipe) -> dict[int, Row]:
    """The rows of a results file, which is made if absent; what a kill left of a last line is cut off.

    Raises:
        ResultsError: see `certify_dataset`.
    """
    content = path.read_bytes() if path.exists() else b""
    header = (json.dumps({"recipe": asdict(recipe)}) + "\n").encode()
    if header.startswith(content):  # absent, empty, torn in its first line, or complete and without results
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header)
        return {}
    whole = content[: content.rfind(b"\n") + 1]
    first, *lines = whole.decode(errors="replace").splitlines() or [""]
    _check_recipe(path, first, recipe)
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    rows: dict[int, Row] = {}
    for number, line in enumerate(lines, start=2):
        row = _parse(path, number, line)
        if rows.setdefault(row.index, row) != row:
            raise ResultsError(f"{path}, line {number}: expected one result for image {row.index}, got another one")
    return rows


def _check_recipe(path: Path, header: str, recipe: Recipe) -> None:
    try:
        found = json.loads(header)["recipe"]
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
