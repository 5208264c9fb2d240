"""What `heatserve paper` measures: how each system of the paper answers, and how far attacks go, image by image.

All arrays of a row are in the order of one permutation of the test split, which its `Split` names. Those of `one_pass`
are about all of its images, those of `noisy`, of `confirmed` and of attacks about the first of them: the same index is
the same image in every row of a data set. Distances and radii are L2, of pixels in [0,1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from heatserve.benchmarks.records.record import Record, read_record
from heatserve.export.card_parts import Calibration, MonteCarlo, Split
from heatserve.export.contract import CertificateKind

SYSTEMS_FILE, ATTACKS_FILE = "systems.json", "attacks.json"
"""The two files in the folder of a data set."""

NEAREST_SHARE = 0.01
"""The nearest that PGD looks, as a share of ε."""

Evaluated = Literal["deterministic", "stochastic"]
"""How the paper answers with a system: one pass of v, or an average of f over noise."""


def ddn_nearest(steps: int) -> float:
    """The nearest that DDN looks, L2: its first step is at the image, its second 1.05 away, each further a twentieth
    nearer."""
    return float(1.05 * 0.95 ** (steps - 2))


@dataclass(frozen=True, kw_only=True)
class SystemSettings:
    """All that decides a row besides the networks. Of images there may be fewer in the split than were asked for."""

    images: int | None
    """Test images that one pass is measured on; None: all of the split."""
    certify_images: int
    """The first of them, about which noisy passes are made."""
    monte_carlo: MonteCarlo
    """Of `noisy`: n₀, n, α, seed and sampling of Certify."""
    top_k: int
    """k: an answer is right where the true class is among the k best, and Theorem 3 compares p₍ₖ₎ with p₍ₖ₊₁₎."""
    calibration_images: int
    calibration_alpha: float
    """α: the share of positive radii that may overclaim."""
    calibration_delta: float
    """δ: the promise holds with confidence 1 − δ, for this calibration by itself."""
    confirm_alpha: float
    """α of `confirmed`: the probability that an answer is wrong, for each image and radius."""


@dataclass(frozen=True, kw_only=True)
class TrainedSystem:
    """How the networks of a row came to be."""

    checkpoint: str
    """SHA-256 of the file of v."""
    base_checkpoint: str | None
    """SHA-256 of the file of f, where f is another network than v (`average`); None: v is its own f."""
    method: str
    """Of the last training."""
    start: str | None
    """The system whose network that training started from; None: fresh weights."""
    labels: bool
    """Whether that training used labels."""
    labels_in_all: bool
    """Whether any training did that led to the network: of `madry-heat`, that of `madry`."""
    epochs: int
    """Of all trainings after the baseline's; of the baseline, and of what starts from fresh weights, their own."""
    epochs_in_all: int
    """With those of the baseline, where it starts from that."""
    seconds: float | None
    """Of the trainings that `epochs` counts, on the machine of `provenance`; None: no log was kept."""
    hyperparameters: Mapping[str, str | int | float | bool | None]
    """Of the last training, its optimisation included."""


@dataclass(frozen=True, kw_only=True)
class SinglePasses:
    """What one pass of v answers to N test images, uncorrected and as it is served. All arrays are [N]."""

    images: Split
    truth: tuple[int, ...]
    """True classes."""
    label: tuple[int, ...]
    """Top class of v."""
    right: tuple[bool, ...]
    """Whether the true class is among the k best."""
    l_bound: tuple[float, ...]
    """Theorem 3, equation (7), of v's own probabilities: σ·√(π/2)·(p₍ₖ₎ − p₍ₖ₊₁₎). Of a 1-Lipschitz network, whose
    margin needs no σ: the radius before rounding is taken off it."""
    nominal: tuple[float, ...]
    """σ/2·(Φ⁻¹(p₍₁₎) − Φ⁻¹(p₍₂₎)) of v's own probabilities; 1-Lipschitz: as `l_bound`."""
    served: tuple[float, ...]
    """Radius that is served: calibrated, or proven of a 1-Lipschitz network; 0 where nothing can be promised."""


@dataclass(frozen=True, kw_only=True)
class NoisyPasses:
    """What n₀ + n noisy passes of f say about the first M images of `SinglePasses`. All arrays are [M]."""

    proven_label: tuple[int, ...]
    """Class of the smoothed classifier by Certify; −1: it abstains."""
    proven_radius: tuple[float, ...]
    """Radius of that class by Certify, wrong with probability at most α for each image; 0 where it abstains."""
    top_k_radius: tuple[float, ...]
    """Radius within which a vote is for one of the k classes with most of the n₀ votes, as Figure 1(b) counts; for
    k = 1 the same as `proven_radius`."""
    top_k_right: tuple[bool, ...]
    """Whether the true class is one of these k, and Certify does not abstain about them."""
    named_radius: tuple[float, ...]
    """Radius as the paper certifies its HeatSmoothing models: the class is v's (its k best), the same n votes bound its
    probability, and n₀ votes are not needed. 0 where they prove nothing."""
    vote_label: tuple[int, ...]
    """Class with most of all n₀ + n votes."""
    average_label: tuple[int, ...]
    """Top class of the averaged probabilities."""
    average_right: tuple[bool, ...]
    """Whether the true class is among the k best of the averaged probabilities."""
    average_l_bound: tuple[float, ...]
    """Theorem 3, equation (7), of the probabilities averaged over n₀ + n noisy passes: what the paper reports of
    stochastic models."""


@dataclass(frozen=True, kw_only=True)
class ConfirmedRadius:
    """What confirm answers about the first M images: is v's class proven within `radius`? Replayed from kept votes.

    Both arrays are [M].
    """

    radius: float
    proven: tuple[bool, ...]
    """Yes; wrong with probability at most `confirm_alpha` for each image."""
    votes: tuple[int, ...]
    """Noisy passes that the answer took, whatever it is; the single pass comes on top."""


@dataclass(frozen=True, kw_only=True)
class PassTimes:
    """Milliseconds of a pass in ONNX Runtime, without a server, on the machine of the row's `provenance`."""

    one_pass: float
    """Of one image alone with everything that is served, median."""
    noisy_pass: float | None
    """Of one vote in full batches, noise included, for the quickest twentieth of the images, whose votes nothing
    else on the machine delayed; None: there are no votes."""


@dataclass(frozen=True, kw_only=True)
class SystemRow:
    """One system at one σ."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    system: str
    """Its name in the recipe of the data set: `baseline`, `noise`, `smoothadv`, `heat`, …"""
    sigma: float | None
    """σ, pixels in [0,1]; None: a 1-Lipschitz network, which knows of no noise."""
    architecture: str
    evaluated: Evaluated
    kind: CertificateKind
    """Of the certificate that is served."""
    settings: SystemSettings
    trained: TrainedSystem
    one_pass: SinglePasses
    noisy: NoisyPasses | None
    """None: a 1-Lipschitz network."""
    confirmed: tuple[ConfirmedRadius, ...]
    """By rising radius; none of a 1-Lipschitz network. About the top class, whatever k is."""
    calibration: Calibration | None
    """The promise of `served`; None: none could be made, and `served` is 0, or it is proven and needs none."""
    refused: str | None
    """Why no promise could be made; None: one was, or none is needed."""
    times: PassTimes
    provenance: Record

    @property
    def proven_images(self) -> int:
        """M: how many of the images noisy passes were made about."""
        return len(self.noisy.proven_label) if self.noisy else 0

    def overclaims(self, radius: Literal["served", "nominal", "l_bound", "average_l_bound"]) -> NDArray[np.bool_]:
        """Which radii are positive, and above what Certify proves or of another class than its own.

        Of one pass, or of the averaged probabilities (`average_l_bound`), about the first M images, [M]; of a
        1-Lipschitz network, whose radii are proven, none.
        """
        if self.noisy is None:
            return np.zeros(len(self.one_pass.label), np.bool_)
        claimed, label = self.claims(radius)
        other = label != np.array(self.noisy.proven_label)
        backed = ~other & (claimed <= np.array(self.noisy.proven_radius))  # what is no number backs nothing
        return np.asarray((claimed > 0) & ~backed)

    def claims(
        self, radius: Literal["served", "nominal", "l_bound", "average_l_bound"]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Radii and classes that `overclaims` compares with Certify, both [M]."""
        if radius == "average_l_bound":
            assert self.noisy is not None
            return np.array(self.noisy.average_l_bound), np.array(self.noisy.average_label)
        first = slice(self.proven_images)
        return np.array(getattr(self.one_pass, radius)[first]), np.array(self.one_pass.label[first])


@dataclass(frozen=True, kw_only=True)
class SystemsRecord:
    """All systems of one data set; each row says for itself how it was made."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    dataset: str
    rows: tuple[SystemRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DistanceSettings:
    """All that decides the distances of one attack, besides the network."""

    images: int | None
    """Test images that are attacked, the first of the permutation; None: all of the split."""
    top_k: int
    """Success: the true class is not among the k best."""
    limit: float
    """ε: largest L2 distance, pixels in [0,1]."""
    steps: int
    """Of PGD and DDN; of AutoAttack, of APGD and FAB."""
    noise_samples: int | None
    """n of equation (9): draws that a gradient is averaged over; None: a deterministic model, equation (8)."""
    votes: int | None
    """Noisy passes whose averaged probabilities decide whether an attack on a stochastic model succeeded; None: the
    served graph decides."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """How far one attack has to go against one system."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    system: str
    sigma: float | None
    """None: neither the network nor the attack depends on it: `baseline`, `madry`, `lipschitz`."""
    architecture: str
    evaluated: Evaluated
    checkpoint: str
    """SHA-256 of what is attacked: v, or f of a stochastic model."""
    attack: Literal["PGD", "DDN", "AutoAttack"]
    method: str
    """What it is, for a reader."""
    settings: DistanceSettings
    images: Split
    distances: tuple[float | None, ...]
    """L2 distance of the nearest misclassified image that was found, [N]; 0: the image as it is is misclassified, and
    was not attacked; None: none was found within the limit."""
    seconds: float
    provenance: Record

    @property
    def nearest(self) -> float:
        """How near to an image the attack looks, L2: what it finds is not nearer, whatever the network.

        But for pixels at the ends of their range, which clipping brings nearer, and for AutoAttack, which goes to its
        limit and finds what lies inside only on its way.
        """
        if self.attack == "PGD":
            return NEAREST_SHARE * self.settings.limit
        return ddn_nearest(self.settings.steps) if self.attack == "DDN" else self.settings.limit

    @property
    def finite(self) -> NDArray[np.float64]:
        """The distances, inf where none was found, [N]."""
        return np.array([np.inf if distance is None else distance for distance in self.distances])

    @property
    def median(self) -> float | None:
        """Median distance to misclassification; None: more than half of the images have none within the limit."""
        found = float(np.median(self.finite))
        return found if np.isfinite(found) else None

    @property
    def mean(self) -> float:
        """Mean distance, in which the limit stands where none was found."""
        return float(np.minimum(self.finite, self.settings.limit).mean())


@dataclass(frozen=True, kw_only=True)
class AttacksRecord:
    """All attacks on the systems of one data set; each row says for itself how it was made."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    dataset: str
    rows: tuple[AttackRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PaperResults:
    """What is measured of one data set."""

    systems: SystemsRecord
    attacks: AttacksRecord


def read_paper(folder: Path) -> PaperResults:
    """The results of a data set in a folder; where attacks were not run, none.

    Raises:
        RecordError: no systems, or a file holds something else.
    """
    systems, attacks = read_record(folder / SYSTEMS_FILE, SystemsRecord), folder / ATTACKS_FILE
    none = AttacksRecord(dataset=systems.dataset)
    return PaperResults(systems=systems, attacks=read_record(attacks, AttacksRecord) if attacks.is_file() else none)
