"""Somebody's ONNX classifier as our logits graph: `image` FP32 [N, C, H, W] in [0,1] → `logits` FP32 [N, K], N dynamic.

Whatever is changed for it is checked by what it answers: the file is run as it came, on images as it takes them, and
the logits graph on the images themselves, in batches of several sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from heatserve.certification.radius import Float32Array, Float64Array
from heatserve.export.graph.imported.assembly import (
    BINARY,
    LOG_SOFTMAX,
    LOGITS,
    PROBABILITIES,
    SOFTMAX,
    ScoreRule,
    assembled,
    flattened,
    softmax,
)
from heatserve.export.graph.imported.conversion import converted
from heatserve.export.graph.imported.errors import OnnxFileError, quoted
from heatserve.export.graph.imported.pixels import NetworkInput, Preprocessing, find_input
from heatserve.export.graph.imported.probe import answers_of
from heatserve.export.graph.imported.reading import read_onnx
from heatserve.export.graph.imported.scores import Scores, find_scores

_BATCHES = (1, 2, 7)
"""Sizes of batch in which the logits graph must answer as the file does."""
_TOLERANCE = 1e-5
"""Largest difference of a probability between both."""
_HALF_TOLERANCE = 1e-2
"""The same, of a network in FP16."""
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class NormalForm:
    """A classifier that was brought to our form, and what was done to it."""

    logits: onnx.ModelProto
    """`image` FP32 [N, C, H, W] in [0,1] → `logits` FP32 [N, K]."""
    input_shape: tuple[int, int, int]
    classes: int
    """K."""
    labels: tuple[str, ...] | None
    """The classes as the file names them; None: it does not."""
    taken: str
    """The input of the file, for a sentence."""
    scores: str
    """How its output became logits, for a sentence."""
    error: float
    """Largest difference of a probability from what the file answers."""


def normal_form(path: Path, preprocessing: Preprocessing, *, output: str | None = None) -> NormalForm:
    """Read a file and bring it to our form.

    Args:
        path: an ONNX classifier, by whomever.
        preprocessing: how an image becomes what it takes.
        output: the output with its scores, where there are several.

    Raises:
        OnnxFileError: it cannot be used; says why, and names the node or tensor.
    """
    model = read_onnx(path)
    taken = find_input(path, model, preprocessing)
    later = converted(path, model)
    scores = find_scores(path, later, output=output)
    images = _images(taken.image_shape)
    answers = _answers(path, model, taken, scores.output, images)
    rule = _rule(path, scores, answers)
    classes = 2 if scores.removed == "Sigmoid" else answers.shape[1]
    logits = assembled(path, later, taken, scores.value, rule, axes=answers.ndim, classes=classes)
    half = TensorProto.FLOAT16 in {taken.element, *(tensor.data_type for tensor in model.graph.initializer)}
    error = _compared(path, logits, taken, images, rule.probabilities(flattened(answers)))
    if not error <= (_HALF_TOLERANCE if half else _TOLERANCE):
        raise OnnxFileError(
            f"{path}: expected the same probabilities of it and of the graph that is served, got a difference of "
            f"{error:.2g}; the answer to an image must not depend on the other images of a batch"
        )
    known = scores.labels and len(scores.labels) == classes
    said = f"{quoted(scores.output)}: {rule.said}"
    return NormalForm(
        logits, taken.image_shape, classes, scores.labels if known else None, taken.described, said, error
    )


def _images(shape: tuple[int, int, int]) -> Float32Array:
    """Noise of 8 bits around grey, from full contrast to none, so that activations are large and small."""
    count = max(_BATCHES)
    contrast = np.linspace(1, 0, count)[:, None, None, None]
    noise = np.random.default_rng(0).random((count, *shape))
    levels = np.rint(255 * (0.5 + contrast * (noise - 0.5)))
    images: Float32Array = levels.astype(np.float32) / np.float32(255)
    return images


def _answers(
    path: Path, model: onnx.ModelProto, taken: NetworkInput, output: str, images: Float32Array
) -> NDArray[Any]:
    """What the file answers to images, [n, K, …], in batches of the size that it takes, or else one by one."""
    wanted = onnx.ModelProto()
    wanted.CopyFrom(model)
    del wanted.graph.output[:]
    wanted.graph.output.append(onnx.ValueInfoProto(name=output))
    batch = taken.batch or 1
    count = -(-len(images) // batch) * batch
    tensor = taken.tensor(np.resize(images, (count, *images.shape[1:])))
    (answers,) = answers_of(path, wanted, tensor, batches=[batch])
    if answers.ndim not in (1, 2, 3, 4) or len(answers) != count or answers[0].size != (answers.shape[1:] or (1,))[0]:
        raise OnnxFileError(
            f"{path}: output {quoted(output)}: expected one score for each image and class, [{count}, K], got "
            f"{list(answers.shape)}"
        )
    if not np.isfinite(answers).all():
        raise OnnxFileError(f"{path}: output {quoted(output)}: expected numbers for any image, got NaN or infinity")
    first: NDArray[Any] = answers[: len(images)]
    return first


def _rule(path: Path, scores: Scores, answers: NDArray[Any]) -> ScoreRule:
    """How logits are made, from the last operator and, where that does not tell, from what is answered."""
    flat, named = flattened(answers), f"{path}: output {quoted(scores.output)}"
    classes = flat.shape[1]
    if scores.removed == "Sigmoid":
        if classes > 1:
            raise OnnxFileError(
                f"{named}: expected exclusive classes, whose probabilities sum to 1, got a "
                f"Sigmoid of each of {classes} scores; export it without the Sigmoid where an image has one class"
            )
        return BINARY
    if classes < 2:
        raise OnnxFileError(
            f"{named}: expected scores of at least two classes, got one; of a network that "
            "tells two classes apart by one number, export the Sigmoid of it too"
        )
    if scores.removed is not None:
        return LOG_SOFTMAX if scores.removed == "LogSoftmax" else SOFTMAX
    if flat.min() >= 0 and np.abs(flat.sum(1) - 1).max() < _SUM_TOLERANCE:
        return PROBABILITIES
    return LOGITS


def _compared(
    path: Path, logits: onnx.ModelProto, taken: NetworkInput, images: Float32Array, expected: Float64Array
) -> float:
    """The largest difference of a probability of the logits graph from what is expected, over all sizes of batch."""
    try:
        found = answers_of(path, logits, images, batches=_BATCHES)
    except OnnxFileError as error:
        if taken.batch is None:
            raise
        named = quoted(taken.name)
        raise OnnxFileError(
            f"{error}; input {named} has a fixed batch of {taken.batch}, and the network cannot take another: export "
            f"it with any batch (torch.onnx.export(…, dynamic_axes={{{named}: {{0: 'N'}}}}))"
        ) from None
    return max(float(np.abs(softmax(answers.astype(np.float64)) - expected).max()) for answers in found)
