"""Pictures that look alike though their pixels differ: the same photograph resized, compressed or retouched."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BANDS = 4
_BAND_BITS = 16


def near_duplicates(
    outlines: NDArray[np.uint64], others: NDArray[np.uint64], *, bits: int = 3
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each picture that looks like one of the others: its index, and that of the other one, the first found.

    Two hashes that differ in at most 3 of 64 bits agree in one of 4 bands of 16 bits, so only such pairs are compared.
    Pictures without an outline, such as those of one colour, look like nothing.

    Args:
        outlines: hashes as `fingerprints.outline` makes them, [N].
        others: the same of the others, [M].
        bits: how many of the 64 bits may differ, at most 3.
    """
    if not 0 <= bits < _BANDS:
        raise ValueError(f"bits: expected 0 to {_BANDS - 1}, got {bits}")
    mine = np.flatnonzero(_count(outlines) >= _LEAST_BITS)
    theirs = np.flatnonzero(_count(others) >= _LEAST_BITS)
    partner = np.full(len(outlines), -1, np.int64)
    for band in range(_BANDS):
        shift = np.uint64(band * _BAND_BITS)
        keys = (others[theirs] >> shift) & np.uint64(0xFFFF)
        order = np.argsort(keys, kind="stable")
        wanted = (outlines[mine] >> shift) & np.uint64(0xFFFF)
        starts, ends = (np.searchsorted(keys[order], wanted, side=side) for side in ("left", "right"))
        for index, start, end in zip(mine.tolist(), starts.tolist(), ends.tolist(), strict=True):
            if start == end or partner[index] >= 0:
                continue
            candidates = theirs[order[start:end]]
            close = _count(others[candidates] ^ outlines[index]) <= bits
            if close.any():
                partner[index] = candidates[close.argmax()]
    found = np.flatnonzero(partner >= 0)
    return found, partner[found]


_LEAST_BITS = 8
"""Fewer bits than this are set where a picture is nearly of one colour, or grows darker to the right everywhere."""


def _count(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits are set in each, [N]."""
    bits: NDArray[np.uint8] = np.unpackbits(hashes.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1)
    counts: NDArray[np.int64] = bits.sum(axis=1, dtype=np.int64)
    return counts
