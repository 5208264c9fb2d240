"""Certify a whole data set: resumable at the image, on this machine or on a Ray cluster, with the same results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from heatserve.certification.errors import HeatserveError
from heatserve.certification.monte_carlo import ABSTAIN
from heatserve.certification.progress import Progress, unseen
from heatserve.export.calibration.ledger import (
    Recipe,
    Row,
    certify_chunk,
    certify_images,
    chunks,
    recipe_of,
)
from heatserve.export.card import MonteCarlo
from heatserve.export.images import SampledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import ModelImages, model_images

RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0)
CHUNK = 4
"""Images in one task of a cluster."""
RETRIES = 3
"""How often a task is run again whose worker died."""


def certify_dataset(
    model: ModelVersion,
    data: SampledImages,
    results: Path,
    *,
    monte_carlo: MonteCarlo,
    top_k: int = 1,
    ray_address: str | None = None,
    progress: Progress = unseen,
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
        ResultsError: `results` holds another recipe or other images, or is damaged.
        HeatserveError: images of another shape than the model's.
    """
    taken = model_images(model, data)
    recipe = recipe_of(model, taken, monte_carlo, top_k=top_k)

    def on_ray(base: bytes, data: ModelImages, indices: list[int], recipe: Recipe) -> Iterator[Row]:
        assert ray_address is not None
        return _on_ray(ray_address, base, data, indices, recipe)

    work = None if ray_address is None else on_ray
    rows = certify_images(model, taken, recipe, results=results, progress=progress, work=work)
    return {"model": model.name, **summary(recipe, rows)}


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


def _on_ray(address: str, base: bytes, data: ModelImages, indices: list[int], recipe: Recipe) -> Iterator[Row]:
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
        waiting, running = chunks(data, indices, CHUNK), list[Any]()
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
