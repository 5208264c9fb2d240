"""Φ⁻¹ as a sum of eight positive fractions, which the graph evaluates too, and which calibration reweights.

With w = −log 2m, −Φ⁻¹(m) on 0 < m ≤ ½ is Σⱼ cⱼ·w/(w + aⱼ) within a relative 6e-9 for eight pairs of *positive* numbers.
So float32 evaluates it without cancellation (to a relative 3e-7) and without branches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POLES = np.array([0.784361773, 1.22474153, 2.43309086, 5.62908186, 14.3952585, 41.0550005, 149.869649, 1557.31108])
RESIDUES = np.array([0.13575963, 0.37229764, 0.66681525, 1.08010537, 1.79456254, 3.3548063, 8.60383857, 72.45075345])
"""aⱼ and cⱼ: minimax fit by reweighted non-negative least squares for w up to 86.6."""


def fractions(m: NDArray[np.float64]) -> NDArray[np.float64]:
    """w/(w + aⱼ), each in [0,1), float64 [..., 8], for 0 < m ≤ ½ [...]; times `RESIDUES`, they sum to −Φ⁻¹(m)."""
    w = -np.log(2 * m)[..., None]
    return np.asarray(w / (w + POLES))
