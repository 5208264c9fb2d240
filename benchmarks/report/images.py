"""What the rows of `heatserve paper` say image by image, as arrays: radii, distances, and who certifies what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from heatserve.benchmarks.records.paper import AttackRow, SystemRow

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
PAPER_NAMES = {
    "heat": "HeatSmoothing",
    "smoothadv": "SmoothAdv",
    "noise": "RandomizedSmoothing",
    "baseline": "Undefended baseline",
}
"""The paper's names of its four systems, by the names of ours."""
STYLES = {
    "baseline": 0,
    "average": 1,
    "lipschitz": 2,
    "smoothadv": 3,
    "noise": 4,
    "heat": 5,
    "heat-paper": 6,
    "madry": 7,
    "madry-heat": 8,
}
"""Of the curves of the systems, on the whole page."""
OTHER_STYLE = 9


def style_of(system: str) -> int:
    """The style of a system's curves; one for all that are not known."""
    return STYLES.get(system, OTHER_STYLE)


def named(system: str) -> str:
    """A system, with the paper's name where it has one."""
    return f"{system} ({PAPER_NAMES[system]})" if system in PAPER_NAMES else system


@dataclass(frozen=True)
class Images:
    """The arrays of one row; M images have noisy passes, N ≥ M a single pass."""

    row: SystemRow

    @property
    def proven_images(self) -> int:
        """M."""
        return self.row.proven_images

    @cached_property
    def served(self) -> Floats:
        """Served radii [N]."""
        return np.array(self.row.one_pass.served, dtype=float)

    @cached_property
    def nominal(self) -> Floats:
        """Nominal radii [N]."""
        return np.array(self.row.one_pass.nominal, dtype=float)

    @cached_property
    def proven(self) -> Floats:
        """Radii that Certify proves [M]."""
        return np.array(self.row.noisy.proven_radius if self.row.noisy else (), dtype=float)

    @cached_property
    def right(self) -> Bools:
        """Whether one pass is right [N], with k best classes."""
        return np.array(self.row.one_pass.right, dtype=bool)

    @cached_property
    def one_pass_certified(self) -> Floats:
        """Radius that one pass certifies of the right class [N]; −1: its class is wrong."""
        top = np.array(self.row.one_pass.label) == np.array(self.row.one_pass.truth)
        return np.where(top, self.served, -1.0)

    @cached_property
    def certified(self) -> Floats:
        """Radius within which Certify proves the right class [M]; −1: another class, or it abstains."""
        noisy = self.row.noisy
        if noisy is None:
            return np.array(())
        truth = np.array(self.row.one_pass.truth[: self.proven_images])
        return np.where(np.array(noisy.proven_label) == truth, np.array(noisy.proven_radius, dtype=float), -1.0)

    @cached_property
    def as_the_paper(self) -> Floats:
        """Radius as Figure 1 counts it [M or N]; −1: wrong, or it abstains.

        Stochastic models by Certify; deterministic ones by Certify about the class that their single pass names; a
        1-Lipschitz network by what it serves.
        """
        noisy = self.row.noisy
        if noisy is None:
            return self.one_pass_certified
        if self.row.evaluated == "stochastic":
            return np.where(np.array(noisy.top_k_right), np.array(noisy.top_k_radius, dtype=float), -1.0)
        return np.where(self.right[: self.proven_images], np.array(noisy.named_radius, dtype=float), -1.0)

    @cached_property
    def l_bound(self) -> Floats:
        """Theorem 3 as Tables 3 and 5 have it: of the averaged probabilities where the model is stochastic [M], of the
        single pass where it is not [N]."""
        noisy = self.row.noisy
        if noisy is not None and self.row.evaluated == "stochastic":
            return np.array(noisy.average_l_bound, dtype=float)
        return np.array(self.row.one_pass.l_bound, dtype=float)


def share_at_least(radii: Floats, at: Floats) -> list[float | None]:
    """Share of images with a positive radius of at least each of `at`; None: there is no image."""
    if not len(radii):
        return [None] * len(at)
    return [float(((radii > 0) & (radii >= radius)).mean()) for radius in at]


def share_within(row: AttackRow, at: Floats) -> list[float | None]:
    """Share of images that are misclassified within each distance."""
    distances = row.finite
    if not len(distances):
        return [None] * len(at)
    return [float((distances <= distance).mean()) for distance in at]


def median(values: Floats) -> float | None:
    """Of the values that are numbers; None: there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def mean(values: Floats) -> float | None:
    """Of the values that are numbers; None: there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def largest(values: Floats) -> float | None:
    """Of the values that are numbers; None: there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else None
