"""What is served compared with what Certify proves, image by image, and the figures that a card states of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.audit import by_radius, certified_accuracy
from heatserve.certification.calibration import Overclaims, Reference, count_overclaims
from heatserve.certification.monte_carlo import ABSTAIN
from heatserve.certification.radius import Float64Array, FloatArray
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.calibration.other_inputs import measure_other_inputs
from heatserve.export.card_parts import CertifiedAccuracy, Evaluation, MonteCarlo, OverclaimRate, RadiusBin
from heatserve.export.contract import Outputs
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import ModelImages, answers
from heatserve.export.runtime.session import Runner

CARD_RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5)
"""Radii at which a card states certified accuracy (L2, pixels in [0,1])."""
BIN_WIDTH = 0.5
"""Width of the bins of served radii that overclaims are counted in, in units of σ."""


@dataclass(frozen=True)
class ComparedAnswers:
    """What is answered to N images, and what Certify finds there. A part of them is `compared[start:stop]`."""

    outputs: Outputs
    """What is answered, by name, each [N, …]."""
    proven_label: NDArray[np.int64]
    """The class that Certify proves, or ABSTAIN, [N]."""
    proven_radius: Float64Array
    """L2, pixels in [0,1], 0 where it abstains, [N]."""
    smoothed_label: NDArray[np.int64]
    """The class with the most votes, [N]."""

    def __len__(self) -> int:
        return len(self.proven_label)

    def __getitem__(self, part: slice) -> ComparedAnswers:
        outputs = {name: output[part] for name, output in self.outputs.items()}
        return ComparedAnswers(outputs, self.proven_label[part], self.proven_radius[part], self.smoothed_label[part])

    @cached_property
    def reference(self) -> Reference:
        """What calibration and audit count overclaims with."""
        return Reference(
            probabilities=self.outputs["probabilities"].astype(np.float64),
            agrees=(self.proven_label == self.outputs["label"]) & (self.proven_label != ABSTAIN),
            proven=self.proven_radius,
        )


def compare_with_certify(
    model: ModelVersion, runner: Runner, data: ModelImages, certifier: Certifier
) -> ComparedAnswers:
    """Ask what is served, run Certify of the base classifier of `model`, and put both side by side."""
    outputs = answers(runner, data)
    entries = certifier.entries(model, data)
    return ComparedAnswers(
        outputs,
        proven_label=np.array([entry.predicted for entry in entries], dtype=np.int64),
        proven_radius=np.array([entry.radius for entry in entries], dtype=np.float64),
        smoothed_label=np.array([entry.guess for entry in entries], dtype=np.int64),
    )


def evaluate(
    model: ModelVersion,
    runner: Runner,
    data: ModelImages,
    *,
    delta: float,
    certifier: Certifier,
    other_images: int = 0,
) -> Evaluation:
    """The figures of what `model` answers, or of what its next version would, compared with Certify on `data`.

    Bounds on overclaim rates hold with confidence 1 − delta each. `other_images` of the images, at most, are changed
    into inputs of other kinds (`other_inputs`); 0: those are not measured.
    """
    compared = compare_with_certify(model, runner, data, certifier)
    label = compared.outputs["label"]

    def rate(name: str) -> OverclaimRate:
        radius = as_judged(compared.outputs[name], certifier.monte_carlo)
        return overclaim_rate(count_overclaims(compared.reference, radius, delta=delta))

    return Evaluation(
        data=data.source(len(compared)),
        monte_carlo=certifier.monte_carlo,
        confidence=1 - delta,
        clean_accuracy=float((label == data.labels).mean()),
        smoothed_accuracy=float((compared.smoothed_label == data.labels).mean()),
        agreement=float((compared.smoothed_label == label).mean()),
        calibrated=rate("certified_radius"),
        nominal=rate("nominal_radius"),
        by_radius=overclaims_by_radius(
            compared.reference,
            as_judged(compared.outputs["certified_radius"], certifier.monte_carlo),
            width=BIN_WIDTH * model.card.sigma,
        ),
        other_inputs=measure_other_inputs(model, runner, data[:other_images], certifier),
        certified_accuracy=accuracy_over_radius(compared, data.labels, CARD_RADII),
    )


def accuracy_over_radius(
    compared: ComparedAnswers, truth: NDArray[np.int64], radii: Sequence[float]
) -> CertifiedAccuracy:
    """Certified accuracy of what is answered, and of Certify, at each of `radii` (L2, pixels in [0,1]).

    `truth` [N] are the true classes.
    """
    right, radius = compared.outputs["label"] == truth, compared.outputs["certified_radius"].astype(np.float64)

    def served(name: str) -> tuple[float, ...]:
        return certified_accuracy(right, compared.outputs[name].astype(np.float64), radii)

    return CertifiedAccuracy(
        radii=tuple(radii),
        single_pass=served("certified_radius"),
        l_bound=served("l_bound"),
        nominal=served("nominal_radius"),
        monte_carlo=certified_accuracy(compared.proven_label == truth, compared.proven_radius, radii),
        backed=certified_accuracy(right & compared.reference.backs(radius), radius, radii),
    )


def overclaims_by_radius(reference: Reference, radius: FloatArray, *, width: float) -> tuple[RadiusBin, ...]:
    """Overclaims among the radii [N] in (0, width], (width, 2·width], … (L2, pixels in [0,1]); no bin is empty."""
    members, overclaims = by_radius(radius.astype(np.float64), width=width).members, reference.overclaims(radius)
    return tuple(
        RadiusBin(
            above=width * index,
            up_to=width * (index + 1),
            positive=int((members == index).sum()),
            overclaims=int(overclaims[members == index].sum()),
        )
        for index in np.unique(members[members >= 0]).tolist()
    )


def as_judged(radius: FloatArray, monte_carlo: MonteCarlo) -> FloatArray:
    """Radii [N] as far as the reference can judge them: a decision judges its own radius in place of any larger one."""
    decided = monte_carlo.decides
    return radius if decided is None else np.where(radius >= decided, decided, 0.0)


def overclaim_rate(seen: Overclaims) -> OverclaimRate:
    """Counted overclaims as a card states them."""
    return OverclaimRate(
        images=seen.images, positive=seen.positive, overclaims=seen.count, upper_bound=seen.upper_bound
    )
