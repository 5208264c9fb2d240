"""Which images of a data set a calibration is made on, and which its figures are measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.calibrating import LabelledImages


def sample(
    dataset: str, split: str, *, root: Path | None = None, count: int | None = None, seed: int = 0
) -> LabelledImages:
    """At most `count` images of a split, by a permutation that `seed` decides. Needs torch, to load the data.

    Raises:
        DataError: no such data set or split.
    """
    from training.data import load_data

    source = load_data(dataset, split, root)
    chosen = np.random.default_rng(seed).permutation(len(source))[:count]
    return LabelledImages(*source.arrays(chosen.tolist()), dataset=dataset, split=split, seed=seed)
