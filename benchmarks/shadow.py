"""The shadow audit on traffic that is known: honest test images, changed ones, and the answers of a swapped network.

What runs is the audit of a server (`serving.shadow.auditor`), fed with what the served graph answers.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from heatserve.benchmarks.records.shadow import ShadowModel, ShadowRow
from heatserve.certification.errors import HeatserveError
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.radius import Float32Array, top_score
from heatserve.export.card import BASE_NAME
from heatserve.export.card_parts import Calibration
from heatserve.export.contract import INVALID_LABEL
from heatserve.export.images import LabelledImages
from heatserve.export.reference import InputReference, read_reference
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.served import open_served
from heatserve.export.runtime.session import classifier, open_session
from heatserve.serving.observed.recorder import Recorder
from heatserve.serving.shadow.auditor import Auditor
from heatserve.serving.shadow.folder import AuditFolder, AuditSettings
from heatserve.serving.vote_protocol import Sample

_BATCH = 256


@dataclass(frozen=True)
class Traffic:
    """What is sent to a model, and what answers."""

    name: str
    change: Callable[[Float32Array], Float32Array] = lambda images: images
    """Of the pixels [N, C, H, W]."""
    sharpness: float = 1.0
    """By how much the logits are multiplied that answer: a network of the same classes that is surer than ours."""


def brighter(images: Float32Array, *, levels: int = 26) -> Float32Array:
    """Every pixel by so many of 255 levels brighter, at most white."""
    return np.minimum(images + np.float32(levels / 255), np.float32(1))


def compressed(images: Float32Array, *, quality: int) -> Float32Array:
    """As files in JPEG of this quality; grey ones where there is one channel."""
    return np.stack([_jpeg(image, quality) for image in images])


def _jpeg(image: Float32Array, quality: int) -> Float32Array:
    levels, file = np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8), io.BytesIO()
    Image.fromarray(levels[:, :, 0] if len(image) == 1 else levels).save(file, "JPEG", quality=quality)
    pixels = np.asarray(Image.open(file), np.float32) / np.float32(255)
    return pixels[None] if len(image) == 1 else pixels.transpose(2, 0, 1)


HONEST = Traffic("honest: test images")
TRAFFIC = (
    HONEST,
    Traffic("a swapped network, twice as sure", sharpness=2.0),
    Traffic("brighter by 26 of 255 levels", brighter),
    Traffic("JPEG of quality 50", lambda images: compressed(images, quality=50)),
    Traffic("JPEG of quality 30", lambda images: compressed(images, quality=30)),
)


def measure_shadow(
    model: ModelVersion,
    data: LabelledImages,
    *,
    honest_runs: int,
    runs: int,
    inputs: int,
    judged: int,
    seed: int,
    progress: Progress = unseen,
) -> ShadowModel:
    """Send each kind of traffic to new audits, and see when they raise which alarm.

    Args:
        model: calibrated, with a reference.
        data: test images that the traffic is made of.
        honest_runs: runs of honest traffic, of images that no other run has as long as there are enough.
        runs: of each other kind.
        inputs: most inputs of a run.
        judged: most answers that are judged in a run: what comes after them is only compared.
        seed: decides which images come when.
        progress: shows the runs.

    Raises:
        HeatserveError: the model promises nothing, or has no reference.
    """
    part, reference = model.card.calibration, read_reference(model.path, model.card)
    if part is None or reference is None:
        raise HeatserveError(f"{model.name}: expected a calibrated model with a reference.json, got one without")
    audits = _Audits(model, part, reference, judged=judged)
    rows = []
    for traffic in TRAFFIC:
        images = traffic.change(data.images)
        samples = audits.samples(images, sharpness=traffic.sharpness)
        orders = _orders(len(images), inputs, honest_runs if traffic is HONEST else runs, seed=seed)
        shown = progress(orders, honest_runs if traffic is HONEST else runs, f"{model.name}, {traffic.name}")
        found = [audits.run([(samples[at], images[at]) for at in order]) for order in shown]
        rows.append(
            ShadowRow(
                traffic=traffic.name,
                inputs=min(inputs, len(images)),
                judged=sum(run.judged for run in found),
                overclaims=sum(run.overclaims for run in found),
                rate_alarms=tuple(run.rate_alarm for run in found),
                drift_alarms=tuple(run.drift_alarm for run in found),
            )
        )
    return ShadowModel(
        graph_sha256=model.card.graph_sha256,
        alpha=part.alpha,
        data=data.source(len(data)),
        reference=reference.data.images,
        rows=tuple(rows),
    )


def _orders(images: int, inputs: int, runs: int, *, seed: int) -> Iterator[NDArray[np.int64]]:
    """Which images each run sends: of one permutation after another, `inputs` at a time, none twice in a run."""
    rng, left = np.random.default_rng(seed), np.zeros(0, np.int64)
    size = min(inputs, images)
    for _ in range(runs):
        if len(left) < size:
            left = rng.permutation(images)
        order, left = left[:size], left[size:]
        yield order


@dataclass(frozen=True)
class _Run:
    judged: int
    overclaims: int
    rate_alarm: int | None
    drift_alarm: int | None


class _Audits:
    """New audits of one model."""

    def __init__(self, model: ModelVersion, part: Calibration, reference: InputReference, *, judged: int) -> None:
        self._model, self._part, self._reference, self._judged = model, part, reference, judged
        self._base = classifier(open_session(model.path / BASE_NAME))

    def samples(self, images: Float32Array, *, sharpness: float) -> list[Sample]:
        """What a network is answered whose logits are those of the served one, times `sharpness`."""
        served = open_served(self._model)(images)
        label, probabilities, radius = (served[name] for name in ("label", "probabilities", "certified_radius"))
        if sharpness != 1:
            logits = sharpness * np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
            probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            refused = np.zeros(len(images), bool) if self._part.guard is None else self._part.guard.refuses(images)
            radius = np.where(refused | (label == INVALID_LABEL), 0, self._part.radius_map(probabilities))
        columns = (label.tolist(), top_score(probabilities).tolist(), radius.tolist())
        return [Sample(*row) for row in zip(*columns, strict=True)]

    def run(self, traffic: list[tuple[Sample, Float32Array]]) -> _Run:
        """Send answers and images to a new audit until both alarms are raised, or there are no more."""
        rate_alarm: int | None = None
        drift_alarm: int | None = None
        with tempfile.TemporaryDirectory() as folder:
            audit = self._new(AuditFolder.created(Path(folder) / "audit", AuditSettings(share=1.0)))
            assert audit.drift is not None
            for sent, (sample, image) in enumerate(traffic, 1):
                is_judged = audit.rate.trials < self._judged and rate_alarm is None
                audit.take(sample if is_judged else Sample(sample.label, sample.score, 0.0), image)
                while audit.is_busy:
                    audit.step()
                if audit.rate.alarmed and rate_alarm is None:
                    rate_alarm = audit.rate.trials
                if audit.drift.alarmed and drift_alarm is None:
                    drift_alarm = sent
                if rate_alarm is not None and drift_alarm is not None:
                    break
        return _Run(audit.rate.trials, audit.rate.successes, rate_alarm, drift_alarm)

    def _new(self, folder: AuditFolder) -> Auditor:
        return Auditor(
            self._model.card,
            self._part,
            self._base,
            reference=self._reference,
            folder=folder,
            recorder=Recorder(),
            batch_size=_BATCH,
            log=lambda _: None,
        )
