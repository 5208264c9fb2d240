"""What images are answered after changes that the calibration images did not have. No promise is about such inputs.

The same images, changed in each way, are sent to what is served, and its positive radii are compared with Certify of
the base classifier on the changed images. An answer with radius 0 cannot overclaim, so Certify does not run for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.radius import Float32Array
from heatserve.export.calibration.certifier import Certifier
from heatserve.export.card import Card
from heatserve.export.card_parts import OtherInputs
from heatserve.export.contract import Outputs, Reason
from heatserve.export.images import LabelledImages, LabelledPictures, Picture
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.answers import ModelImages, answers, model_images
from heatserve.export.runtime.session import Runner

OTHER_IMAGES = 100
"""How many images are changed in each way for a card that is published."""

_LEVELS = np.float32(255)

ImageChange = Callable[[Float32Array, np.random.Generator], Float32Array]
"""From an image float32 [C, H, W] in [0,1] to what is sent in its place."""


def image_changes(card: Card) -> Mapping[str, ImageChange]:
    """The changes by name, as far as they apply to a model: those of colours need three channels."""
    changes: dict[str, ImageChange] = {
        "inverted": lambda image, _: 1 - image,
        "half contrast": lambda image, _: 0.5 + (image - 0.5) / 2,
        "half brightness": lambda image, _: image / 2,
        "transposed": lambda image, _: image.transpose(0, 2, 1),
        "upside down": lambda image, _: image[:, ::-1],
        "shifted by a quarter": lambda image, _: _shifted(image),
        "blurred": lambda image, _: _blurred(image),
        "uniform noise": lambda image, random: random.random(image.shape, dtype=np.float32),
    }
    if card.input_shape[0] == 3:
        changes["channels reversed"] = lambda image, _: image[::-1]
        if card.input_type == "FP32":
            changes["HWC read as CHW"] = lambda image, _: image.transpose(1, 2, 0).reshape(image.shape)
        else:
            changes["CHW read as HWC"] = lambda image, _: _chw_as_hwc(image)
    return changes


def _shifted(image: Float32Array) -> Float32Array:
    """To the right by a quarter of the width; black comes in."""
    steps = image.shape[2] // 4
    return np.pad(image, ((0, 0), (0, 0), (steps, 0)))[:, :, : image.shape[2]]


def _blurred(image: Float32Array) -> Float32Array:
    """Each pixel is the mean of the 3×3 around it; at the edge, of those that there are once its own are repeated."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    _, height, width = image.shape
    around = [padded[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
    blurred: Float32Array = np.mean(around, axis=0, dtype=np.float32)
    return blurred


def _chw_as_hwc(image: Float32Array) -> Float32Array:
    """The numbers of [C, H, W] in their order, taken for [H, W, C]."""
    channels, height, width = image.shape
    return image.reshape(height, width, channels).transpose(2, 0, 1)


def measure_other_inputs(
    model: ModelVersion, runner: Runner, data: ModelImages, certifier: Certifier
) -> tuple[OtherInputs, ...]:
    """What `runner` answers to `data` after each change that applies, compared with Certify of the base of `model`.

    No images: nothing. A change that gives images of a shape that the model does not take is left out.
    """
    rows = []
    for kind, change in image_changes(model.card).items() if len(data) else ():
        changed = changed_images(model, data, kind, change)
        if changed is not None:
            rows.append(_measured(kind, model, answers(runner, changed), changed, certifier))
    return tuple(rows)


def changed_images(model: ModelVersion, data: ModelImages, kind: str, change: ImageChange) -> ModelImages | None:
    """The images, each changed, as a split of its own; None where the model does not take images of their new shape.

    Images of 8 bits stay so.
    """
    where = (data.labels, data.dataset, f"{data.split}, {kind}", data.seed, data.first)
    random = [np.random.default_rng((data.seed, data.first + index)) for index in range(len(data))]
    if not isinstance(data.sent, np.ndarray):
        pictures = tuple(_changed_picture(*one, change) for one in zip(data.sent, random, strict=True))
        return model_images(model, LabelledPictures(pictures, *where))
    images = [change(*one) for one in zip(data.images, random, strict=True)]
    if images[0].shape != model.card.input_shape:
        return None
    stacked = np.stack(images).astype(np.float32)
    if (_as_8_bits(data.images) == data.images).all():
        stacked = _as_8_bits(stacked)
    return model_images(model, LabelledImages(stacked, *where))


def _as_8_bits(images: Float32Array) -> Float32Array:
    """Rounded to multiples of 1/255."""
    rounded: Float32Array = np.rint(images * _LEVELS) / _LEVELS
    return rounded


def _changed_picture(picture: Picture, random: np.random.Generator, change: ImageChange) -> Picture:
    changed = change(picture.transpose(2, 0, 1) / _LEVELS, random)
    return np.ascontiguousarray(np.rint(changed * _LEVELS).astype(np.uint8).transpose(1, 2, 0))


def _measured(
    kind: str, model: ModelVersion, outputs: Outputs, changed: ModelImages, certifier: Certifier
) -> OtherInputs:
    label, radius = outputs["label"], outputs["certified_radius"].astype(np.float64)
    positive = np.flatnonzero(radius > 0)
    entries = certifier.entries(model, changed, positions=positive.tolist())
    return OtherInputs(
        kind=kind,
        images=len(changed),
        positive=len(positive),
        overclaims=sum(
            entry.predicted != label[index] or radius[index] > entry.radius
            for index, entry in zip(positive, entries, strict=True)
        ),
        refused=_refused(outputs, radius),
    )


def _refused(outputs: Outputs, radius: NDArray[Any]) -> int:
    """Answers with radius 0 since the image is unlike the calibration images."""
    return int(((radius == 0) & (outputs["reason"] == Reason.UNLIKE)).sum())
