"""Models whose overclaims are known: linear, with the guard and the reference of the pictures that they are sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from known_tiers import DIRECTION
from numpy.typing import NDArray
from tiny_model import SHAPE, write_tiny_model

from heatserve.certification.guard import fit_guard
from heatserve.export.card import GRAPH_NAME, read_card
from heatserve.export.card_parts import Split
from heatserve.export.reference import reference_of
from heatserve.export.runtime.session import open_session, run

HONEST, OVERCONFIDENT = 8.0, 40.0
"""By how much a network is steep: the radii of the first are about half of what Certify proves, those of the second far
above it. Both vote alike."""
_IMAGES = 300


def inputs(count: int, *, seed: int) -> NDArray[np.float32]:
    """Images [count, 1, 8, 8] of 8 bits at distances from 0.35 to 0.6 from the boundary, with some grain."""
    rng = np.random.default_rng(seed)
    distances = rng.uniform(0.35, 0.6, count) * rng.choice([-1, 1], count)
    grain = rng.normal(scale=0.04, size=(count, DIRECTION.size))
    grain -= np.outer(grain @ DIRECTION, DIRECTION)
    images = np.clip(0.5 + np.outer(distances, DIRECTION) + grain, 0, 1)
    return np.asarray((np.rint(images * 255) / 255).reshape(-1, *SHAPE), np.float32)


def write_shadow_model(repository: Path, name: str, steepness: float, *, has_reference: bool = True) -> Path:
    """Write a calibrated model of one version, without tiers; returns the folder of the version."""
    weights = np.zeros((DIRECTION.size, 10), np.float32)
    weights[:, 0], weights[:, 1] = steepness * DIRECTION, -steepness * DIRECTION
    guard = fit_guard(inputs(_IMAGES, seed=1))
    version_dir = write_tiny_model(repository, name, weights=weights, guard=guard)
    if has_reference:
        images = inputs(_IMAGES, seed=2)
        outputs = run(open_session(version_dir / GRAPH_NAME), images)
        data = Split(dataset="digits", split="calibration", images=_IMAGES, seed=0)
        reference_of(
            read_card(version_dir), guard=guard, data=data, probabilities=outputs["probabilities"], images=images
        ).write(version_dir)
    return version_dir
