"""Pictures that look alike though their pixels differ: the same photograph resized, compressed or retouched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heatserve.training.data.fingerprints import Fingerprints

_OUTLINE_BITS = 3
"""Bits of two outlines, of 64, that may differ."""
_COLOUR_LEVELS = 5.0
"""Levels of 255 by which the colours of two pictures may differ in the mean over 4×4 pixels."""
_BANDS, _BAND_BITS = 4, 16
"""Two outlines that differ in at most 3 bits are the same in one of 4 bands."""


def near_duplicates(
    found: Fingerprints, indices: Sequence[int], others: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pictures of `indices` that look like one of `others`, and which one: the first that was found.

    Pictures look alike whose outlines and whose colours hardly differ. It is meant to find what was resized or saved
    again, not what was cut out, mirrored or photographed twice.
    """
    mine, theirs = np.asarray(indices, np.int64), np.asarray(others, np.int64)
    partner = np.full(len(mine), -1, np.int64)
    for band in range(_BANDS):
        keys, wanted = (_band(found.outlines[part], band) for part in (theirs, mine))
        order = np.argsort(keys, kind="stable")
        starts, ends = (np.searchsorted(keys[order], wanted, side=side) for side in ("left", "right"))
        for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            if start == end or partner[place] >= 0:
                continue
            candidates = theirs[order[start:end]]
            alike = _alike(found, int(mine[place]), candidates)
            if alike.any():
                partner[place] = candidates[alike.argmax()]
    return mine[partner >= 0], partner[partner >= 0]


def _band(outlines: NDArray[np.uint64], band: int) -> NDArray[np.uint64]:
    return (outlines >> np.uint64(band * _BAND_BITS)) & np.uint64((1 << _BAND_BITS) - 1)


def _alike(found: Fingerprints, index: int, others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the others look like the picture at `index`, [M]."""
    differing = (found.outlines[others] ^ found.outlines[index]).astype("<u8").view(np.uint8).reshape(-1, 8)
    bits = np.unpackbits(differing, axis=1).sum(axis=1)
    levels = np.abs(found.colours[others].astype(np.int16) - found.colours[index]).mean(axis=1)
    alike: NDArray[np.bool_] = (bits <= _OUTLINE_BITS) & (levels <= _COLOUR_LEVELS)
    return alike
