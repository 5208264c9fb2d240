"""Certify a whole data set: resumable at the image, on this machine or on a Ray cluster, with the same results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from heatserve.certification.audit import certified_accuracy
from heatserve.certification.errors import HeatserveError
from heatserve.certification.monte_carlo import ABSTAIN
from heatserve.export.calibration.certifier import Certifier, CertifyExecutor, certify_chunk, chunks
from heatserve.export.calibration.ledger import CertifyRecipe, LedgerEntry
from heatserve.export.images import SampledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import ModelImages, model_images

SUMMARY_RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0)
"""Radii at which a summary states certified accuracy (L2, pixels in [0,1])."""
CHUNK = 4
"""Images in one task of a cluster."""
RETRIES = 3
"""How often a task is run again whose worker died."""


def certify_dataset(model: ModelVersion, data: SampledImages, certifier: Certifier) -> dict[str, Any]:
    """Certify the images of `data` that the ledger does not hold yet, append each, and summarise them all.

    Args:
        model: its base classifier is certified.
        data: more images than last time continue the same ledger, if they are the same images at first.
        certifier: see `Certifier`; its executor may be `on_ray`.

    Raises:
        LedgerError: the ledger holds another recipe or other images, or is damaged.
        HeatserveError: images of another shape than the model's.
    """
    taken = model_images(model, data)
    return {"model": model.name, **_summary(certifier.recipe(model, taken), certifier.entries(model, taken))}


def _summary(recipe: CertifyRecipe, entries: list[LedgerEntry]) -> dict[str, Any]:
    """Certified accuracy at `SUMMARY_RADII` (right, and a positive radius of at least r), and what it was made from."""
    radius = np.array([entry.radius for entry in entries])
    right = np.array([entry.right for entry in entries])
    return {
        "recipe": asdict(recipe),
        "images": len(entries),
        "abstained": sum(entry.predicted == ABSTAIN for entry in entries),
        "mean_radius": float(radius.mean()),
        "radii": SUMMARY_RADII,
        "certified_accuracy": list(certified_accuracy(right, radius, SUMMARY_RADII)),
    }


def on_ray(address: str) -> CertifyExecutor:
    """A Ray cluster as executor; a task whose worker dies is run again, `RETRIES` times at most.

    Args:
        address: the address of a running cluster, or `local` to start one here.
    """
    return partial(_on_ray, address)


def _on_ray(
    address: str, base: bytes, data: ModelImages, positions: list[int], recipe: CertifyRecipe
) -> Iterator[LedgerEntry]:
    """Entries as tasks of a cluster finish; twice as many tasks are submitted as it has processors."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        cluster = ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise HeatserveError(f"ray: expected the address of a Ray cluster, got {address!r}: {error}") from None
    with cluster:
        task, shared = ray.remote(max_retries=RETRIES)(certify_chunk), ray.put(base)
        processors = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        waiting, running = chunks(data, positions, CHUNK), list[Any]()
        while True:
            for chunk in islice(waiting, 2 * max(1, processors) - len(running)):
                running.append(task.remote(shared, *chunk, recipe))
            if not running:
                return
            (finished,), running = ray.wait(running)
            try:
                entries: list[LedgerEntry] = ray.get(finished)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise HeatserveError(f"ray: a task was lost {RETRIES + 1} times: {error}") from None
            yield from entries
