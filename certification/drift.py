"""Whether the inputs of a model are still drawn like its calibration images: conformal tests of four statistics.

The statistics of an image and of the answer to it are Φ⁻¹(p₍₁₎) of the single pass, the guard's distance, the mean of
the pixels, and the roughness: the share of a picture's changes from pixel to pixel that belong to none of its larger
shapes, which compression and blur take away. Each is sorted into one of `CELLS` cells of a grid that no data chose, so
that a reference is a small table of counts.

If the inputs are exchangeable with the images of the reference, the p-values of each statistic are independent and
uniform (`anytime.Ranks`), and the evidence of any of the four ever reaches log(4/level) with probability at most
`level` (union bound). This says that inputs differ, not that anything is wrong: other hours have other pictures. It
does not notice what leaves all four statistics as they were, nor an adversary who knows the reference. Inputs that have
shifted become a part of what later ones are compared with, so the evidence ends to grow once they are as many as the
rest.

References: see `heatserve.certification.anytime` and `heatserve.certification.guard`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heatserve.certification.anytime import Evidence, Ranks, bins_of, rank_bets
from heatserve.certification.guard import Guard
from heatserve.certification.radius import Float64Array, FloatArray

CELLS = 512
"""Cells of the grid of each statistic."""
STATISTICS = ("score", "distance", "brightness", "roughness")
"""Names of the statistics, in their order."""

_SCORES = (-1.0, 13.5)  # Φ⁻¹ of a probability above 1/K, of float32
_SMOOTH = 1e-9
_TYPICAL_DISTANCE = 5.0


def input_cells(scores: ArrayLike, images: FloatArray, *, guard: Guard) -> NDArray[np.int64]:
    """The cell of each statistic, int64 [N, 4], of images and of the answers to them.

    Args:
        scores: `top_score` of what the single pass answers, Φ⁻¹(p₍₁₎), [N].
        images: what the network gets, [N, C, H, W] in [0,1].
        guard: of the model.
    """
    distance = guard.distance(images)
    shares = np.stack(
        [
            (np.nan_to_num(np.asarray(scores, np.float64)) - _SCORES[0]) / (_SCORES[1] - _SCORES[0]),
            distance / (distance + _TYPICAL_DISTANCE),
            images.mean(axis=(1, 2, 3), dtype=np.float64),
            _roughness(images),
        ],
        axis=1,
    )
    return np.asarray(np.minimum(np.clip(shares, 0, 1) * CELLS, CELLS - 1).astype(np.int64))


def _roughness(images: FloatArray) -> Float64Array:
    """Of each image, [N] from 0 to 1: mean squares of its second differences, as a share of these and the first's."""
    squares = []
    for axes in ((2,), (3,), (2, 3)):
        x = images.astype(np.float64)
        for axis in axes:
            x = np.diff(x, axis=axis) if x.shape[axis] > 1 else x
        squares.append(np.square(x).mean(axis=(1, 2, 3)))
    return np.asarray(squares[2] / np.maximum(sum(squares), _SMOOTH))


def counts_of(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many images of [N, 4] lie in each cell, [4, CELLS]: a reference for `DriftWatch`."""
    return np.array([np.bincount(column, minlength=CELLS) for column in cells.T])


class DriftWatch:
    """Whether inputs are drawn like those of a reference, asked after every one; see the module.

    Attributes:
        seen: inputs so far.
        alarmed: whether it has alarmed. Once it has, it stays so.
    """

    def __init__(self, reference: NDArray[np.int64], *, level: float, rng: np.random.Generator) -> None:
        """Begin without inputs.

        Args:
            reference: `counts_of` the images of the reference.
            level: probability of an alarm, ever, if the inputs are exchangeable with those images.
            rng: chance that nobody knows beforehand.
        """
        self.level = level
        self.alarmed = False
        self._ranks = Ranks(reference, rng)
        self._evidence = Evidence(rank_bets(), sequences=len(STATISTICS))

    def see(self, cells: NDArray[np.int64]) -> None:
        """Take the next input, its `input_cells` [4]."""
        self._evidence.see(bins_of(self._ranks.p_values(cells)))
        self.alarmed |= self.evidence >= math.log(1 / self.level)

    @property
    def state(self) -> dict[str, Any]:
        """All that was seen, as JSON takes it; see `resume`."""
        return {"counts": self._ranks.counts.tolist(), "evidence": self._evidence.state, "alarmed": self.alarmed}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of a watch with the same reference."""
        self._ranks.counts = np.array(state["counts"], np.int64).reshape(self._ranks.counts.shape)
        self._evidence.resume(state["evidence"])
        self.alarmed = bool(state["alarmed"])

    @property
    def seen(self) -> int:
        """Inputs so far."""
        return self._evidence.seen

    @property
    def evidence(self) -> float:
        """The largest evidence of a statistic, less log 4: an alarm at log(1/level); below 0 there is none."""
        return float(self._evidence.log.max()) - math.log(len(STATISTICS))

    @property
    def by_statistic(self) -> Mapping[str, float]:
        """The evidence of each statistic, by name, likewise."""
        shares = self._evidence.log - math.log(len(STATISTICS))
        return dict(zip(STATISTICS, shares.tolist(), strict=True))
