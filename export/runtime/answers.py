"""Images as a model takes them, converted once, and what it answers to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.pixels import pixel_digest
from heatserve.certification.radius import Float32Array
from heatserve.export.card import GRAPH_NAME, read_verified
from heatserve.export.contract import Outputs
from heatserve.export.graph.build import pixels_graph
from heatserve.export.images import LabelledImages, LabelledPictures, Picture, Sampled, SampledImages
from heatserve.export.repository.layout import ModelVersion
from heatserve.export.runtime.session import Runner, as_levels, open_session


@dataclass(frozen=True)
class ModelImages(Sampled):
    """The same N images in both forms that a calibration needs: as requests to the model, and as Certify's x.

    All of them are in memory: 4·N·C·H·W bytes in `images`; in `sent` nothing more for a model of FP32, which is sent
    the same array, a quarter of that for UINT8, and for a model of pictures what these are, decoded. 2,000 photographs
    of 500×375 pixels for a network of 224×224 are 1.2 GB in `images` and 1.1 GB in `sent`.
    """

    sent: NDArray[Any] | tuple[Picture, ...]
    """FP32 [N, C, H, W] in [0,1], or UINT8 [N, H, W, C]; N pictures for a model that resizes them."""
    images: Float32Array
    """What the network in the served graph gets, and where its base is certified: float32 [N, C, H, W] in [0,1]."""
    labels: NDArray[np.int64]
    dataset: str
    split: str
    seed: int
    first: int = 0
    split_size: int | None = None
    passed_over: int = 0

    def __getitem__(self, part: slice) -> ModelImages:
        """The images from `part.start` to `part.stop`, one after the other."""
        start, stop, _ = part.indices(len(self))
        return replace(
            self,
            sent=self.sent[part],
            images=self.images[part],
            labels=self.labels[part],
            first=self.first + start,
            passed_over=self.passed_over if stop == len(self) else 0,
        )

    @cached_property
    def pixel_digests(self) -> tuple[str, ...]:
        """The `pixel_digest` of each image as it was given, [N]: a picture's before it is cut out."""
        uint8 = not isinstance(self.sent, np.ndarray) or self.sent.dtype == np.uint8
        return tuple(pixel_digest(image.transpose(2, 0, 1) if uint8 else image) for image in self.sent)


def model_images(model: ModelVersion, data: SampledImages) -> ModelImages:
    """Images converted for a model: rounded to 8 bits where it takes UINT8, cut out by its own graph where it resizes.

    Each picture is decoded once and cut out once.

    Raises:
        HeatserveError: see `check_images`.
    """
    check_images(model, data)
    where = (data.labels, data.dataset, data.split, data.seed, data.first, data.split_size, data.passed_over)
    if isinstance(data, LabelledPictures):
        pictures = tuple(data.pictures)
        return ModelImages(pictures, _cut_out(model, pictures), *where)
    images: Float32Array = data.images
    sent: NDArray[Any] = images
    if model.card.input_type == "UINT8":
        images = np.rint(images * np.float32(255)) / np.float32(255)
        sent = as_levels(images)
    return ModelImages(sent, images, *where)


def check_images(model: ModelVersion, data: SampledImages) -> None:
    """Refuse what a model does not take, before anything is decoded.

    Raises:
        HeatserveError: images of another shape than the model's, or images in place of pictures, or pictures in place
            of images.
    """
    if isinstance(data, LabelledPictures) != bool(model.card.resize):
        expected, found = ("pictures", "images") if model.card.resize else ("images", "pictures")
        does = "resizes them" if model.card.resize else "does not resize"
        raise HeatserveError(f"{data.dataset}: expected {expected} for model {model.name}, which {does}, got {found}")
    if isinstance(data, LabelledImages) and data.images.shape[1:] != model.card.input_shape:
        raise HeatserveError(
            f"{data.dataset}: expected images of shape {list(model.card.input_shape)} for model {model.name}, "
            f"got {list(data.images.shape[1:])}"
        )


def answers(runner: Runner, data: ModelImages) -> Outputs:
    """What is answered to the images as a client would send them, outputs by name; pictures are sent one by one."""
    if isinstance(data.sent, np.ndarray):
        return runner(data.sent)
    found = [runner(picture[None]) for picture in data.sent]
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}


def _cut_out(model: ModelVersion, pictures: tuple[Picture, ...]) -> Float32Array:
    graph = onnx.load_from_string(read_verified(model.path / GRAPH_NAME, model.card.graph_sha256))
    session = open_session(pixels_graph(graph).SerializeToString())
    cut_out = np.empty((len(pictures), *model.card.input_shape), np.float32)
    for image, picture in zip(cut_out, pictures, strict=True):
        image[:] = session.run(None, {"image": picture[None]})[0][0]
    return cut_out
