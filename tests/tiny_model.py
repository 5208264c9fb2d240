"""A model small enough to read: a certified graph on a linear classifier of 8×8 images, in a repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from heatserve.certification.guard import Guard
from heatserve.certification.provenance import sha256_of
from heatserve.certification.radius import PLAIN_WEIGHTS, RadiusMap
from heatserve.export.card import BASE_NAME, CARD_NAME, GRAPH_NAME, Card, read_card
from heatserve.export.card_parts import Calibration, MonteCarlo, OverclaimCount, Split
from heatserve.export.digest import with_digest
from heatserve.export.graph.build import certified_graph, uint8_input, with_map
from heatserve.export.promise import promise_text
from heatserve.export.repository.layout import CONFIG_NAME, write_model_config
from heatserve.training.data.sources import DIGITS_CLASSES

SHAPE = (1, 8, 8)
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIGMA = 0.25


def shifted_map(shift: float, cap: float, *, sigma: float = SIGMA) -> RadiusMap:
    """About σ·min(Φ⁻¹(p₍₁₎) − shift, cap), in steps of σ/100."""
    radii = (np.arange(1, round(100 * cap) + 1) / 100 * sigma).astype(np.float32).astype(float)
    weights = tuple(map(tuple, PLAIN_WEIGHTS.tolist()))
    return RadiusMap(weights, tuple((shift + radii / sigma).tolist()), tuple(radii.tolist()))


_LOGITS = """
<ir_version: 9, opset_import: ["" : 18]>
linear (float[N,1,8,8] image) => (float[N,10] logits) {
    flat = Flatten<axis = 1>(image)
    logits = MatMul(flat, weights)
}
"""
_SPLIT = Split(dataset="digits", split="test", images=500, seed=0)
_ALPHA, _CONFIDENCE = 0.01, 0.99
_MONTE_CARLO = MonteCarlo(n0=100, n=1000, alpha=0.001, seed=0)
CALIBRATION = Calibration(
    promise=promise_text(
        sigma=SIGMA, alpha=_ALPHA, confidence=_CONFIDENCE, looks=1, reference=_MONTE_CARLO.described, error=0.001
    ),
    method="shift",
    alpha=_ALPHA,
    confidence=_CONFIDENCE,
    looks=1,
    spent=0,
    level=1 - _CONFIDENCE,
    target=None,
    radius_map=shifted_map(0.05, 3.0),
    fit=_SPLIT,
    check=_SPLIT,
    monte_carlo=_MONTE_CARLO,
    overclaim=OverclaimCount(images=500, positive=490, overclaims=0),
)


def write_tiny_model(
    repository: Path,
    name: str = "tiny",
    *,
    calibrated: bool = True,
    guard: Guard | None = None,
    weights: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None = None,
) -> Path:
    """Write the model into a repository, with random weights [64, 10] or others; returns the folder of its version."""
    logits = parser.parse_model(_LOGITS)
    if weights is None:
        weights = np.random.default_rng(0).normal(scale=0.5, size=(64, 10)).astype(np.float32)
    logits.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    graph = certified_graph(logits, sigma=SIGMA)
    if calibrated:
        graph = with_map(graph, CALIBRATION.radius_map, guard)
    version_dir = repository / name / "1"
    version_dir.mkdir(parents=True)
    onnx.save(graph, version_dir / GRAPH_NAME)
    onnx.save(logits, version_dir / BASE_NAME)
    calibration = CALIBRATION.model_copy(update={"guard": guard})
    write_tiny_card(version_dir, calibration=calibration if calibrated else None)
    return version_dir


def write_tiny_card(version_dir: Path, *, calibration: Calibration | None = CALIBRATION) -> None:
    """Write a card that matches the graphs in `version_dir`, whatever they hold, and the model's configuration."""
    card = Card(
        model=version_dir.parent.name,
        graph_sha256=sha256_of(version_dir / GRAPH_NAME),
        base_sha256=sha256_of(version_dir / BASE_NAME),
        sigma=SIGMA,
        class_names=CLASS_NAMES,
        input_shape=SHAPE,
        training={},
        lineage=(),
        calibration=calibration,
        evaluation=None,
        versions={},
        date="2026-01-01",
    )
    card.write(version_dir)
    write_model_config(version_dir.parents[1], card)


def take_uint8(version_dir: Path, *, resize: int | None) -> None:
    """Have an uncalibrated tiny model take UINT8: of 8×8 pixels, or pictures of any size that it resizes."""
    graph = certified_graph(uint8_input(onnx.load(version_dir / BASE_NAME), resize=resize), sigma=SIGMA)
    onnx.save(graph, version_dir / GRAPH_NAME)
    card = read_card(version_dir).model_copy(
        update={"input_type": "UINT8", "resize": resize, "graph_sha256": sha256_of(version_dir / GRAPH_NAME)}
    )
    card.write(version_dir)
    write_model_config(version_dir.parents[1], card)


def name_digits(version_dir: Path) -> Path:
    """Have a tiny model call its classes as the data set `digits` does."""
    card = read_card(version_dir).model_copy(update={"class_names": DIGITS_CLASSES})
    card.write(version_dir)
    write_model_config(version_dir.parents[1], card)
    return version_dir


def edit_card(version_dir: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON of a card and compute its digest again, as somebody who means it would."""
    path = version_dir / CARD_NAME
    content = json.loads(path.read_bytes())
    change(content)
    path.write_bytes(with_digest(content))


def with_sigma(sigma: float) -> dict[str, Any]:
    """Fields of a tiny card of another σ, with the promise that follows from it."""
    return {"sigma": sigma, "calibration": {**CALIBRATION.model_dump(), "promise": CALIBRATION.promised(sigma)}}


def delay_batches(version_dir: Path, *, microseconds: int) -> None:
    """Have Triton hold requests for up to this time, to answer them together."""
    config = version_dir.parent / CONFIG_NAME
    text = config.read_text()
    changed = text.replace("dynamic_batching {", f"dynamic_batching {{ max_queue_delay_microseconds: {microseconds}")
    assert changed != text
    config.write_text(changed)


def random_images(count: int, *, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Images of noise, float32 [count, 1, 8, 8] in [0,1]."""
    return np.random.default_rng(seed).random((count, *SHAPE), dtype=np.float32)
