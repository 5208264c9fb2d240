"""What the page sends, read and checked; and what it is answered, as JSON. No radius is without its promise."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.playground.refusals import Refused
from heatserve.serving.client.answers import ModelSpec, Prediction
from heatserve.serving.client.tier_answers import TierAnswer
from heatserve.serving.pixels import Pixels, explain_pixels
from heatserve.training.data.decoding import to_bytes

Image = NDArray[np.float32]
"""One image, [C, H, W] in [0,1]."""
UNSTATED = "The server does not say what it promises about this radius: count on nothing."
MOST_SIDE = 1024
"""Pixels of a side, where a model takes pictures of any size."""


class Question:
    """The JSON object of a request."""

    def __init__(self, body: bytes) -> None:
        """Read it.

        Raises:
            Refused: it is none.
        """
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Refused(400, "Expected a JSON object, got something else.")
        self._values: Mapping[str, Any] = found

    @property
    def model(self) -> str:
        """The name of a model; not checked."""
        value = self._values.get("model")
        if not isinstance(value, str):
            raise Refused(400, "model: expected the name of a model.")
        return value

    def number(self, name: str, *, least: float, most: float) -> float:
        """A number of that name.

        Raises:
            Refused: it is not there, or not between these two.
        """
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise Refused(400, f"{name}: expected a number from {least:g} to {most:g}.")
        return float(value)

    def image(self, spec: ModelSpec) -> Image:
        """The image that the request is about, as the model takes it: rounded to 8 bits where that is all it takes.

        Raises:
            Refused: it is not there, or not of the model's shape, or not of pixels in [0,1].
        """
        value = self._values.get("image")
        image = _image(value if isinstance(value, dict) else {})
        if not all(size in (-1, side) for size, side in zip(spec.input_shape, image.shape, strict=True)):
            raise Refused(400, "image: expected the size that the model takes; choose the picture again.")
        problem = explain_pixels(image[None])
        if problem:
            raise Refused(400, "image: expected numbers from 0 (black) to 1 (white) only.")
        return seen(image, spec)


def _image(value: Mapping[str, Any]) -> Image:
    shape, text = value.get("shape"), value.get("pixels")
    refusal = Refused(400, "image: expected `shape` [C, H, W] and `pixels`, float32 in base64.")
    if not isinstance(shape, list) or len(shape) != 3 or not isinstance(text, str):
        raise refusal
    if not all(type(side) is int and 0 < side <= MOST_SIDE for side in shape):
        raise refusal
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise refusal from None
    if len(content) != 4 * math.prod(shape):
        raise refusal
    return np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)


def image_record(image: Image) -> dict[str, Any]:
    """An image for the page, as `Question.image` reads it."""
    return {
        "shape": list(image.shape),
        "pixels": base64.b64encode(np.ascontiguousarray(image, "<f4").tobytes()).decode(),
    }


def seen(image: Image, spec: ModelSpec) -> Image:
    """The image that the model sees: of 8 bits where it takes no others."""
    if spec.input_type == "FP32":
        return image
    levels: Image = to_bytes(image) / np.float32(255)
    return levels.astype(np.float32)


def sent(images: NDArray[np.float32], spec: ModelSpec) -> Pixels:
    """Images [N, C, H, W] as the client sends them."""
    if spec.input_type == "FP32":
        return np.ascontiguousarray(images, np.float32)
    return np.ascontiguousarray(to_bytes(images).transpose(0, 2, 3, 1))


def prediction_record(answer: Prediction, spec: ModelSpec, seconds: float) -> dict[str, Any]:
    """What one pass answers, with the promise of the model's card."""
    return {
        "tier": "one pass",
        "label": answer.label,
        "class_name": answer.class_name,
        "probability": answer.probability,
        "probabilities": [float(value) for value in answer.probabilities],
        "l_bound": answer.l_bound,
        "certified_radius": answer.certified_radius,
        "nominal_radius": answer.nominal_radius,
        "reason": answer.reason.name,
        "explanation": answer.reason.explanation,
        "kind": spec.certificate_kind,
        "promise": spec.promise or UNSTATED,
        "seconds": seconds,
    }


def tier_record(answer: TierAnswer, promise: str | None, seconds: float, *, radius: float | None) -> dict[str, Any]:
    """What a tier answers, with its promise; `radius` is the one that was asked for, if one was."""
    return {
        "tier": answer.tier.value,
        "label": answer.label,
        "class_name": answer.class_name,
        "outcome": answer.outcome.value,
        "proven_radius": answer.proven_radius,
        "asked_radius": radius,
        "votes": answer.votes,
        "alpha": answer.alpha,
        "reason": answer.reason.value,
        "explanation": answer.explanation,
        "p_lower": answer.p_lower,
        "sampling": answer.sampling,
        "promise": promise or UNSTATED,
        "seconds": seconds,
    }
