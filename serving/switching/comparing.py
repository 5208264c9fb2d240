"""Whether an engine answers an image as the graph of the version does, within the rounding that the contract allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatserve.export.contract import RADIUS_NAMES, Outputs, Reason
from heatserve.export.graph.certificate import NOT_CALIBRATED
from heatserve.serving.client.image_files import read_images
from heatserve.serving.pixels import Pixels

if TYPE_CHECKING:
    from heatserve.export.card import Card
    from heatserve.export.card_parts import LipschitzBound

KEPT_NAME = "kept"
"""In a model's folder: pictures and .npy arrays on which each new version is tried."""
MOST_KEPT = 64
_NOISE = 0.25  # standard deviation of that of trial images where a card has no σ
_FLOAT32_APART = 2.0**-22  # relative: neighbours in float32, to which two numbers that hardly differ may round
PROBABILITY_TOLERANCE = 1e-5
"""What a probability may differ by between two engines, or between batches of one."""


def trial_images(model_dir: Path, card: Card, warm_up: Pixels) -> Iterator[Pixels]:
    """Batches of one image each: the warm-up, images made of it, and those that are kept in the model's folder.

    Args:
        model_dir: where a folder `kept` may lie.
        card: of the version.
        warm_up: the image that Triton asks each instance for before it serves.
    """
    yield warm_up
    yield from _made_of(warm_up, card.sigma or _NOISE)
    kept = model_dir / KEPT_NAME
    channels, height, width = card.input_shape
    shape = (channels, -1, -1) if card.resize else (channels, height, width)
    for path in sorted(kept.iterdir())[:MOST_KEPT] if kept.is_dir() else ():
        images = read_images(path, shape, card.input_type)
        yield from (images[index : index + 1] for index in range(len(images)))


def _made_of(image: Pixels, sigma: float) -> Iterator[Pixels]:
    """The same image under noise, dark, bright, inverted and reversed; black, white and noise without it."""
    top = 255 if image.dtype == np.uint8 else 1
    pixels: NDArray[np.float64] = image.astype(np.float64) / top
    noise = np.random.default_rng(0)
    made = [
        pixels + sigma * noise.standard_normal(pixels.shape),
        pixels + 2 * sigma * noise.standard_normal(pixels.shape),
        pixels / 2,
        (1 + pixels) / 2,
        1 - pixels,
        pixels[..., ::-1],
        np.zeros_like(pixels),
        np.ones_like(pixels),
        noise.random(pixels.shape),
    ]
    for one in made:
        clipped = np.clip(one, 0, 1)
        yield np.rint(255 * clipped).astype(np.uint8) if image.dtype == np.uint8 else clipped.astype(np.float32)


def disagreement(card: Card, expected: Outputs, found: Outputs) -> str:
    """What an engine answers otherwise than the graph does; nothing where it answers alike.

    Probabilities may differ by `PROBABILITY_TOLERANCE`, and a class where two are as close as that. A radius is the
    same wherever the probabilities are, and never above what the calibration supports for those that were answered. A
    radius that is proven may differ by what two evaluations in float64 do, as far as the card bounds it.

    Args:
        card: of the version.
        expected: what the graph answers to one image.
        found: what the engine answered to it.
    """
    p, wanted = found["probabilities"].astype(np.float64), expected["probabilities"].astype(np.float64)
    off = float(np.abs(p - wanted).max())
    if not off <= PROBABILITY_TOLERANCE:  # also where it is NaN
        return f"probabilities: expected those of the graph within {PROBABILITY_TOLERANCE:g}, got {off:.3g} off"
    ranked = -np.sort(-wanted, axis=1)
    if _differ("label", expected, found) and ranked[0, 0] - ranked[0, 1] > 2 * PROBABILITY_TOLERANCE:
        return f"label: expected {int(expected['label'][0])}, got {int(found['label'][0])}"
    if card.lipschitz:
        return _unproven(card.lipschitz, expected, found)
    supported = (card.calibration.radius_map if card.calibration else NOT_CALIBRATED)(p)
    if float(found["certified_radius"][0]) > float(supported[0]):
        return (
            f"certified_radius: expected at most {float(supported[0]):g}, got {float(found['certified_radius'][0]):g}"
        )
    if off == 0:
        for name in ("reason", *RADIUS_NAMES):
            if _differ(name, expected, found):
                return f"{name}: expected {expected[name][0].item()}, got {found[name][0].item()}"
    return ""


def _unproven(bound: LipschitzBound, expected: Outputs, found: Outputs) -> str:
    """Where a proven radius is another than the graph's by more than float64, and then float32, rounds.

    Logits of two evaluations are apart by at most twice `logits_error` (L2), so margins over √2 are, too.
    """
    for name in RADIUS_NAMES:
        wanted, got = float(expected[name][0]), float(found[name][0])
        if not abs(got - wanted) <= 2 * bound.logits_error + _FLOAT32_APART * wanted:
            return f"{name}: expected {wanted:.9g}, the graph's, within what float64 rounds, got {got:.9g}"
    claims = float(found["certified_radius"][0]) > 0
    if claims != (int(found["reason"][0]) == Reason.PROVEN):
        return f"reason: expected {Reason.PROVEN:d} with a positive radius and with no other, got {found['reason'][0]}"
    return ""


def _differ(name: str, expected: Outputs, found: Outputs) -> bool:
    first: Any = expected[name][0]
    return bool(first != found[name][0])
