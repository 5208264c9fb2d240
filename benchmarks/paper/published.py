"""What the paper printed, number by number: the only figures that are typed, never measured, and always named as such.

Campbell, Finlay and Oberman (2020), Adversarial Boot Camp: label free certified robustness in one epoch. Distances and
radii are L2, of pixels in [0,1]. What is compared with what is said by the names of systems of `recipes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class PublishedPair:
    """A median and a mean."""

    median: float
    mean: float


@dataclass(frozen=True)
class PublishedDistances:
    """A row of Table 3 or 5."""

    printed: str
    """The name in the paper."""
    l_bound: PublishedPair | None
    pgd: PublishedPair
    ddn: PublishedPair


@dataclass(frozen=True)
class PublishedTable:
    """Table 3 or 5, by the system here that a row corresponds to."""

    number: int
    dataset: str
    architecture: str
    sigma: float
    images: int | None
    """Attacked images; None: the paper does not say."""
    rows: Mapping[str, PublishedDistances]


@dataclass(frozen=True)
class PublishedRadii:
    """A row of Table 4."""

    printed: str
    median: float
    mean: float
    maximum: float


@dataclass(frozen=True)
class PublishedSeconds:
    """A row of Table 2: seconds for one classification, deterministic and stochastic (n₀ noisy passes)."""

    dataset: str
    processor: str
    n0: int
    deterministic: float
    stochastic: float

    @property
    def ratio(self) -> float:
        """How many times as long the stochastic model takes."""
        return self.stochastic / self.deterministic


@dataclass(frozen=True)
class PublishedRun:
    """How the paper ran one data set."""

    dataset: str
    architecture: str
    baseline_epochs: int
    heat: str
    """What HeatSmoothing took after that."""
    sigma: float
    n0: int
    n: int
    certified_images: int | None
    """None: the paper does not say."""
    attacked_images: int | None
    top_k: int


RUNS = (
    PublishedRun("CIFAR-10", "ResNet-34", 200, "(15), 5 time steps of 200 epochs", 0.1, 100, 10_000, None, None, 1),
    PublishedRun("ImageNet-1k", "ResNet-50", 29, "(10), 1 epoch", 0.25, 25, 1000, 5000, 1000, 5),
)
"""Appendix E and section 4."""

TABLE_2 = (
    PublishedSeconds("CIFAR-10", "CPU", 100, 0.0049, 0.0480),
    PublishedSeconds("CIFAR-10", "GPU", 100, 0.0080, 0.0399),
    PublishedSeconds("ImageNet-1k", "CPU", 25, 0.0615, 0.1631),
    PublishedSeconds("ImageNet-1k", "GPU", 25, 0.0113, 0.0932),
)

TABLE_3 = PublishedTable(
    number=3,
    dataset="ImageNet-1k",
    architecture="ResNet-50",
    sigma=0.25,
    images=1000,
    rows=MappingProxyType(
        {
            "heat": PublishedDistances(
                "HeatSmoothing",
                PublishedPair(0.240, 0.190),
                PublishedPair(2.7591, 2.6255),
                PublishedPair(1.0664, 1.2261),
            ),
            "smoothadv": PublishedDistances(
                "SmoothAdv",
                PublishedPair(0.160, 0.160),
                PublishedPair(3.5643, 3.0244),
                PublishedPair(1.1537, 1.2850),
            ),
            "noise": PublishedDistances(
                "RandomizedSmoothing",
                PublishedPair(0.200, 0.180),
                PublishedPair(2.6787, 2.5587),
                PublishedPair(1.2114, 1.3412),
            ),
            "baseline": PublishedDistances(
                "Undefended baseline", None, PublishedPair(1.0313, 1.2832), PublishedPair(0.8573, 0.9864)
            ),
        }
    ),
)

TABLE_5 = PublishedTable(
    number=5,
    dataset="CIFAR-10",
    architecture="ResNet-34",
    sigma=0.1,
    images=None,
    rows=MappingProxyType(
        {
            "heat-paper": PublishedDistances(
                "HeatSmoothing",
                PublishedPair(0.094, 0.085),
                PublishedPair(0.7736, 0.9023),
                PublishedPair(0.5358, 0.6361),
            ),
            "smoothadv": PublishedDistances(
                "SmoothAdv",
                PublishedPair(0.090, 0.078),
                PublishedPair(0.7697, 1.3241),
                PublishedPair(0.4812, 0.6208),
            ),
            "noise": PublishedDistances(
                "RandomizedSmoothing",
                PublishedPair(0.087, 0.081),
                PublishedPair(0.7425, 1.2677),
                PublishedPair(0.4546, 0.5558),
            ),
            "baseline": PublishedDistances(
                "Undefended baseline", None, PublishedPair(0.7088, 0.8390), PublishedPair(0.4911, 0.5713)
            ),
        }
    ),
)

TABLE_4_SIGMA = 0.25
TABLE_4: Mapping[str, PublishedRadii] = MappingProxyType(
    {
        "madry-heat": PublishedRadii("Certified adversarially trained", 0.4226, 0.4193, 0.6158),
        "madry": PublishedRadii("Adversarially trained", 0.0790, 0.1126, 0.6158),
        "baseline": PublishedRadii("Undefended baseline", 0.0, 0.1446, 0.6158),
    }
)
"""On 1,000 images of ImageNet-1k, ResNet-50, σ = 0.25; adversarial training within ε = 3."""
