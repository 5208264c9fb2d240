"""What `bench kinds` measures: what each way of certifying keeps of the accuracy, on the same images."""

from __future__ import annotations

from dataclasses import dataclass

from heatserve.benchmarks.records.record import Record
from heatserve.export.card_parts import Share, Split
from heatserve.export.contract import CertificateKind


@dataclass(frozen=True, kw_only=True)
class KindRow:
    """One way of answering with one model."""

    model: str
    graph_sha256: str
    kind: CertificateKind
    way: str
    """`one pass`, `confirm` or `certify`."""
    alpha: float | None
    """Of one pass: the share of positive radii that may overclaim; of the others: the probability that an answer is
    wrong, for each image. None: nothing is left to chance."""
    data: Split
    accuracy: Share
    """Of the class that is answered; of Certify, where it abstains counts as wrong."""
    certified: tuple[Share, ...]
    """Share of images with the right class and at least each radius; an overclaim whose class is right counts."""
    passes: float
    """Forward passes for an image and a radius, on average."""
    milliseconds: float
    """For one image, in ONNX Runtime without a server: of one pass the median, asked alone; of the others the passes
    times what one takes in batches."""


@dataclass(frozen=True, kw_only=True)
class KindsRecord(Record):
    """Several models and ways on the same images of one data set."""

    radii: tuple[float, ...]
    """L2, pixels in [0,1]."""
    rows: tuple[KindRow, ...]
