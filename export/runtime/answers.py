"""Images as a model takes them, and what it answers to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float32Array
from heatserve.export.card import GRAPH_NAME
from heatserve.export.graph.build import pixels_graph
from heatserve.export.images import LabelledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.session import Answer, open_session


def as_taken(model: ModelVersion, data: LabelledImages) -> LabelledImages:
    """The images that the model's network gets: rounded to 8 bits where it takes UINT8, cut out by its own graph where
    it takes pictures of any size.

    Raises:
        HeatserveError: images of another shape than the model's, or pictures that are not known.
    """
    if model.card.resize:
        return replace(data, images=_cut_out(model, data))
    if data.images.shape[1:] != model.card.input_shape:
        raise HeatserveError(
            f"{data.dataset}: expected images of shape {list(model.card.input_shape)} for model {model.name}, "
            f"got {list(data.images.shape[1:])}"
        )
    if model.card.input_type == "FP32":
        return data
    return replace(data, images=np.rint(data.images * np.float32(255)) / np.float32(255))


def answers(answer: Answer, model: ModelVersion, data: LabelledImages, start: int = 0) -> dict[str, NDArray[Any]]:
    """What is answered to the images of `data` from `start` on, as a client would send them."""
    if not model.card.resize:
        return answer(data.images[start:])
    found = [answer(picture) for picture in _pictures(data, start)]
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}


def _cut_out(model: ModelVersion, data: LabelledImages) -> Float32Array:
    session = open_session(pixels_graph(onnx.load(model.path / GRAPH_NAME)).SerializeToString())
    return np.concatenate([session.run(None, {"image": picture})[0] for picture in _pictures(data)])


def _pictures(data: LabelledImages, start: int = 0) -> Iterator[NDArray[np.uint8]]:
    """Batches of one picture each."""
    if data.picture is None:
        raise HeatserveError(f"{data.dataset}: expected pictures for a model that resizes them, got images only")
    for index in range(start, len(data.labels)):
        yield data.picture(index)[None]
