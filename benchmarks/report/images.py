"""The systems of the paper's command: what they are called, how their curves look, and their radii image by image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from heatserve.benchmarks.records.paper import SystemRow
from heatserve.certification.radius import Float64Array

PAPER_NAMES = {
    "heat": "HeatSmoothing, equation (10)",
    "heat-paper": "HeatSmoothing, equation (15)",
    "smoothadv": "SmoothAdv",
    "noise": "RandomizedSmoothing",
    "baseline": "Undefended baseline",
}
"""The paper's names of its systems, by the names of ours; it has (10) on ImageNet-1k, (15) on CIFAR-10."""
SYSTEM_MEANINGS = {
    "baseline": "the undefended network that the others start from",
    "noise": "cross entropy at noisy images (Cohen et al.); answers by an average over noise",
    "noise-label-free": "the same, with the baseline's classes in place of labels",
    "smoothadv": "cross entropy at attacked noisy images (Salman et al.); answers by an average over noise",
    "heat": "HeatSmoothing by equation (10), as the paper trains on ImageNet-1k",
    "heat-paper": "HeatSmoothing by equation (15) in time steps, as the paper trains on CIFAR-10",
    "average": "our own training: one pass learns the votes of a network under noise",
    "average-probabilities": "the same, of probabilities in place of votes",
    "madry": "adversarially trained (Madry et al.)",
    "madry-heat": "madry, then one epoch of equation (10): Table 4",
    "lipschitz": "1-Lipschitz by construction: radii are proven in one pass",
}
"""What the systems are, in a line."""
SYSTEM_STYLES = {
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
    return SYSTEM_STYLES.get(system, OTHER_STYLE)


def named(system: str) -> str:
    """A system, with the paper's name where it has one."""
    return f"{system} ({PAPER_NAMES[system]})" if system in PAPER_NAMES else system


@dataclass(frozen=True)
class ProvenImages:
    """The first M images of a row, about which noisy passes were made."""

    row: SystemRow
    is_served: bool
    """Whether a radius is served at all; where none is, the nominal one is what is claimed."""

    @property
    def what(self) -> str:
        """The name of the radius that is claimed."""
        return "served" if self.is_served else "nominal"

    @cached_property
    def claimed(self) -> Float64Array:
        """Radii of one pass [M]."""
        found = self.row.one_pass.served if self.is_served else self.row.one_pass.nominal
        return np.array(found[: self.row.proven_images], dtype=float)

    @cached_property
    def proven(self) -> Float64Array:
        """Radii that Certify proves [M]."""
        return np.array(self.row.noisy.proven_radius if self.row.noisy else (), dtype=float)

    @cached_property
    def overclaims(self) -> NDArray[np.bool_]:
        """Which claims are above what is proven, or of another class [M]."""
        return self.row.overclaims("served" if self.is_served else "nominal")

    @property
    def backed(self) -> NDArray[np.bool_]:
        """Which positive claims are not [M]."""
        return np.asarray((self.claimed > 0) & ~self.overclaims)


def proven_images(row: SystemRow) -> ProvenImages:
    """What is served of a row and what is proven, or the nominal radii where nothing is served."""
    return ProvenImages(row, any(radius > 0 for radius in row.one_pass.served[: row.proven_images]))
