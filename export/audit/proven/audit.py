"""The audit of a deterministic certificate: its proof made again, and a search for what contradicts it.

PASS means: the operators of the served file are what a proof can be made of, the proof was made again from its bytes
and agrees with the card, the served file answers as its operators say, and no attack found an image within a served
radius that is answered with another class. There is no probability in it: one such image, and it FAILS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from heatserve.certification.audit import AuditError, Verdict
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.provenance import provenance
from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.export.audit.proven.bound import BoundAgain, other_than_card, prove_again
from heatserve.export.audit.proven.crafted import AttackedImage, Attacker, Counterexample, Judge, digest_of_pixels
from heatserve.export.audit.proven.kept import KeptAttacks
from heatserve.export.audit.proven.pieces import ReadNetwork, UnprovenError
from heatserve.export.audit.proven.reading import ReadGraph, read_graph
from heatserve.export.audit.proven.side_by_side import attack_batches
from heatserve.export.card import GRAPH_NAME, Card, read_verified
from heatserve.export.card_parts import LipschitzBound, Split
from heatserve.export.contract import INVALID_LABEL, Outputs
from heatserve.export.images import LabelledImages, SampledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import model_images
from heatserve.export.runtime.served import open_served

CERTIFIED_RADII = tuple(round(step * 0.05, 2) for step in range(21))
"""L2 radii, pixels in [0,1], at which certified accuracy is reported; 36, 72 and 108 of 255 are beside them."""
_STARTS = ("raised radius", "random pixels", "random, raised", "black and white", "inverted")
_BATCH = 64  # images whose operators are computed together


@dataclass(frozen=True)
class CertifiedShare:
    """Share of images whose class is right and whose radius is at least this one."""

    radius: float
    share: float


@dataclass(frozen=True)
class AttacksFrom:
    """What attacks from one kind of start found, against the radii that were served there."""

    start: str
    images: int
    positive: int
    """With a positive radius: these were attacked."""
    successes: int
    """Images for which another was found, within the radius, of another class."""
    largest_radius: float
    median_radius: float | None
    """Of the positive ones."""
    nearest: float | None
    """The smallest quotient of the distance of a found image of another class and of the served radius. Below 1 is a
    success."""
    median_nearest: float | None
    """The median of these quotients, over the images for which another class was found at any distance."""


@dataclass(frozen=True)
class AuditedAnswers:
    """What was served for the test images."""

    data: Split
    clean_accuracy: float
    certified: tuple[CertifiedShare, ...]
    otherwise: int
    """Images that the served file answers otherwise than its operators do in float64."""


@dataclass(frozen=True)
class ProvenAudit:
    """The verdict on one model version with a deterministic certificate, and all that it rests on."""

    card: Card
    version: int
    verdict: Verdict
    bound: BoundAgain | None
    """None: not proven again."""
    answers: AuditedAnswers
    attack: str
    seed: int
    searches: tuple[AttacksFrom, ...]
    """None: nothing was attacked, since what the operators are could not be read."""
    counterexamples: tuple[Counterexample, ...]
    provenance: dict[str, Any]

    def to_json(self) -> str:
        """Everything, as JSON."""
        return TypeAdapter(ProvenAudit).dump_json(self, indent=2).decode()


def audit_proven(
    model: ModelVersion,
    data: SampledImages,
    *,
    attacker: Callable[[ReadNetwork], Attacker],
    starts: int,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress = unseen,
) -> ProvenAudit:
    """Prove the radii of `model` again, and attack them.

    Args:
        model: as `open_model` verified it, with a deterministic certificate.
        data: images of a test split.
        attacker: makes what attacks a network of its pieces.
        starts: images of each other kind that attacks begin at, beside those of `data`.
        seed: decides the random ones, and the attacks.
        folder: where what attacks found is kept: an interrupted audit goes on from it. None: it is not.
        progress: is told of the layers and of the images.

    Raises:
        AuditError: another kind of certificate, or images that this audit cannot use.
        CardError: what is served has changed since the card was verified.
        HeatserveError: images of another shape than the model's, or what runs it is not here.
    """
    bound = _bound_of(model, data)
    content = read_verified(model.path / GRAPH_NAME, model.card.graph_sha256)
    images = model_images(model, data)
    judge = Judge(open_served(model), takes_bytes=model.card.input_type == "UINT8")
    outputs = judge.answers(images.images)
    graph, again, reasons = _proof(content, bound, progress)
    otherwise = _answered_otherwise(graph, again, images.images, outputs) if graph else 0
    if otherwise:
        reasons.append(f"The served file answers {otherwise} of {len(data)} images otherwise than its operators say.")
    records: list[AttackedImage] = []
    name = "none: what the operators are could not be read"
    searches: tuple[AttacksFrom, ...] = ()
    if graph:
        attacking = attacker(graph.network)
        name = attacking.name
        kept = KeptAttacks(folder, graph_sha256=model.card.graph_sha256, attack=name, seed=seed)
        begun = _starts(judge, attacking, images.images, count=starts, seed=seed)
        searches, records = _search(judge, attacking, [("test images", images.images), *begun], kept, progress)
    broken = [record for record in records if record.broken]
    if broken:
        reasons.append(
            f"{len(broken)} of {len(records)} images have another within their served radius that is answered with "
            "another class."
        )
    return ProvenAudit(
        card=model.card,
        version=model.version,
        verdict=Verdict(not reasons, tuple(reasons)),
        bound=again,
        answers=_answers(outputs, images.labels, images.source(len(images)), otherwise),
        attack=name,
        seed=seed,
        searches=searches,
        counterexamples=tuple(found for record in broken for found in record.broken),
        provenance=provenance("onnx", "onnxruntime", "numpy", "scipy", "torch", "pyautoattack"),
    )


def _bound_of(model: ModelVersion, data: SampledImages) -> LipschitzBound:
    """What the card says, where model and images are such that they can be audited."""
    bound = model.card.lipschitz
    if bound is None:
        raise AuditError(f"{model.name}: expected a deterministic certificate, got a {model.card.certificate_kind} one")
    if not isinstance(data, LabelledImages):
        raise AuditError(f"{model.name}: expected a model that does not resize pictures: an attack needs its pixels")
    if data.split != "test":
        raise AuditError(f"data: expected images that training did not see, a split 'test', got {data.split!r}")
    return bound


def _proof(
    content: bytes, bound: LipschitzBound, progress: Progress
) -> tuple[ReadGraph | None, BoundAgain | None, list[str]]:
    """What was read and proven, as far as it could be, and why it could not."""
    graph = None
    try:
        graph = read_graph(content)
        again = prove_again(graph, progress=progress)
    except UnprovenError as error:
        return graph, None, [f"Not proven: {error}."]
    return graph, again, other_than_card(again, bound)


def _answered_otherwise(graph: ReadGraph, again: BoundAgain | None, images: Float32Array, outputs: Outputs) -> int:
    """Images whose served class or radius is not what the operators give in float64, rounding aside."""
    logits = np.concatenate([graph.network(batch) for batch in np.array_split(images, -(-len(images) // _BATCH))])
    rounding = 4 * again.logits_error if again else 1e-9
    label, served = outputs["label"], outputs["certified_radius"].astype(np.float64)
    own = np.take_along_axis(logits, np.maximum(label, 0)[:, None], axis=1)[:, 0]
    others = logits.copy()
    np.put_along_axis(others, np.maximum(label, 0)[:, None], -np.inf, axis=1)
    radius: Float64Array = np.maximum((own - others.max(1)) / np.sqrt(2) - graph.slack, 0)
    wrong_class = own < logits.max(1) - 1e-6  # of logits that are as near, float32 may show either first
    kept = (served <= radius + rounding) & (served >= radius * (1 - 1e-6) - rounding) & ~wrong_class
    return int((~kept | (label == INVALID_LABEL)).sum())


def _starts(
    judge: Judge, attacker: Attacker, images: Float32Array, *, count: int, seed: int
) -> list[tuple[str, Float32Array]]:
    """Images that are unlike those of a test split, of every kind, [count, C, H, W] each."""
    if not count:
        return []
    draw = np.random.default_rng((seed, 20))
    near = images[:count]
    noise = judge.sent(draw.random((count, *images.shape[1:]), dtype=np.float32))
    extreme = (draw.random(noise.shape) < draw.random((count, 1, 1, 1))).astype(np.float32)

    def raised(chosen: Float32Array) -> Float32Array:
        return judge.sent(attacker.raise_radius(chosen, judge.answers(chosen)["label"]))

    kinds = (raised(near), noise, raised(noise), extreme, judge.sent(1 - near))
    return [*zip(_STARTS, kinds, strict=True)]


def _search(
    judge: Judge,
    attacker: Attacker,
    kinds: Sequence[tuple[str, Float32Array]],
    kept: KeptAttacks,
    progress: Progress,
) -> tuple[tuple[AttacksFrom, ...], list[AttackedImage]]:
    """Attack the images of all kinds that have a positive radius, some at a time."""
    images = np.concatenate([found for _, found in kinds])
    outputs = judge.answers(images)
    labels, radii = outputs["label"], outputs["certified_radius"].astype(np.float64)
    keys = [(digest_of_pixels(image), kind) for kind, found in kinds for image in found]
    positive = np.flatnonzero(radii > 0)
    batches = [positive[begin : begin + attacker.batch] for begin in range(0, len(positive), attacker.batch)]
    due = [batch for batch in batches if not all(kept.get(*keys[row]) for row in batch)]
    to_attack = ((images[batch], labels[batch], radii[batch]) for batch in due)
    with closing(attack_batches(attacker, to_attack, len(due))) as attacks:
        for batch, found in progress(zip(due, attacks, strict=True), len(due), "attacks"):
            records = [
                AttackedImage(digest=digest, start=kind, label=int(labels[row]), radius=float(radii[row]))
                for row in batch
                for digest, kind in [keys[row]]
            ]
            for each in found:
                judge.judge(images[batch], records, each)
            kept.add(records)
    everything = [record for row in positive if (record := kept.get(*keys[row]))]
    ends = np.cumsum([len(found) for _, found in kinds])
    served = zip(kinds, np.split(radii, ends[:-1]), strict=True)
    return tuple(_summary(kind, part, everything) for (kind, _), part in served), everything


def _summary(start: str, radii: Float64Array, everything: Sequence[AttackedImage]) -> AttacksFrom:
    records = [record for record in everything if record.start == start]
    nearest = [record.nearest / record.radius for record in records if record.nearest is not None]
    positive = radii[radii > 0]
    return AttacksFrom(
        start=start,
        images=len(radii),
        positive=len(positive),
        successes=sum(bool(record.broken) for record in records),
        largest_radius=float(radii.max(initial=0.0)),
        median_radius=float(np.median(positive)) if len(positive) else None,
        nearest=min(nearest, default=None),
        median_nearest=float(np.median(nearest)) if nearest else None,
    )


def _answers(outputs: Outputs, truth: NDArray[np.int64], source: Split, otherwise: int) -> AuditedAnswers:
    right, radius = outputs["label"] == truth, outputs["certified_radius"]
    radii = sorted({*CERTIFIED_RADII, *(round(level / 255, 6) for level in (36, 72, 108))})
    certified = tuple(CertifiedShare(at, float((right & (radius >= at)).mean())) for at in radii)
    return AuditedAnswers(source, float(right.mean()), certified, otherwise)
