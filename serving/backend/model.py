"""Triton's `onnxruntime` backend in Python: ONNX Runtime on `<repository>/<model>/<version>/model.onnx`.

Triton's core starts one process per model instance, which runs this file. It serves the repository that the native
backend serves, and answers what the native backend cannot: an error that says which pixels of which image are invalid.
"""

from __future__ import annotations

import gc
import json
import math
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as triton
from numpy.typing import NDArray

from heatserve.export.card import GRAPH_NAME, verify_card
from heatserve.export.contract import INVALID_LABEL
from heatserve.serving.backend.shapes import survive_impossible_shapes
from heatserve.serving.batching import batch_limit, groups, request_bytes
from heatserve.serving.pixels import IMPOSSIBLE_SHAPE, explain_pixels, explain_shape

Array = NDArray[Any]

# A thread of ONNX Runtime that has nothing to do waits actively, and then blocks. By default it waits for up to 50 ms,
# in which Triton and other processes need its core; 30 µs reach to the next operator. ONNX Runtime from 1.26 on knows
# the first entry; older ones at least stop where a batch ends.
_SHORT_WAITS = {"session.intra_op.spin_duration_us": "30", "session.force_spinning_stop": "1"}


class TritonPythonModel:
    """One instance of one certified model. The name and the methods are Triton's."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph, refusing one that its certificate card does not belong to.

        Raises:
            CardError: no card, or a card of other graphs. Triton reports the model as failed.
            RuntimeError: a sample that Triton is to warm up with is not answered. Triton reports that likewise.
        """
        version_dir = Path(args["model_repository"]) / args["model_version"]
        verify_card(version_dir)
        config = json.loads(args["model_config"])
        self._limit = batch_limit(config)
        self._image_dims = tuple(map(int, config["input"][0]["dims"]))
        image_type = np.dtype(triton.triton_string_to_numpy(config["input"][0]["data_type"]))
        self._most_bytes = request_bytes(self._image_dims, item_bytes=image_type.itemsize, limit=self._limit)
        if -1 in self._image_dims:
            survive_impossible_shapes(lambda: triton.Tensor("image", np.zeros(1, np.uint8)))
        options = _session_options(config)
        self._session = ort.InferenceSession(str(version_dir / GRAPH_NAME), options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        for sample in config.get("model_warmup", ()):
            self._rehearse(sample, version_dir.parent)
        gc.freeze()  # nothing that is loaded will be garbage: to look at it would hold requests up

    def _rehearse(self, sample: Mapping[str, Any], model_dir: Path) -> None:
        """Answer a sample of the warm-up before Triton asks for it.

        Triton's core (2.51) stops the thread of an instance whose warm-up failed, and crashes before it says why if
        that thread has not put the instance back into its list yet (`StopBackendThread`). A model that fails to load
        has no thread yet, and is explained.
        """
        try:
            image = _sample_image(sample["inputs"]["image"], model_dir)
        except (KeyError, OSError, ValueError):
            return  # there is no such image, which Triton says itself, and before there is a thread
        count = min(sample["batch_size"], self._limit)
        try:
            refusal = self._refusal(image)
            answers = [refusal] if refusal else self._run([image] * count, [["label"]] * count)
            errors = [answer.error().message() for answer in answers if answer.has_error()]
            if errors:
                raise ValueError("; ".join(errors))
        except Exception as error:
            raise RuntimeError(f"failed to run warmup sample '{sample['name']}': {error}") from None

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests that dynamic batching hands over together, in runs of at most the bytes of one request.

        A request that is not valid, or that cannot be answered, is answered with an error; the others are answered
        as if it were absent.
        """
        images = [self._image(request) for request in requests]
        wanted = [request.requested_output_names() for request in requests]
        responses = [self._refusal(image) for image in images]
        valid = [i for i, refusal in enumerate(responses) if refusal is None]
        for group in groups([images[i].nbytes for i in valid], self._most_bytes):
            together = [valid[j] for j in group]
            answers = self._answer([images[i] for i in together], [wanted[i] for i in together])
            for i, answer in zip(together, answers, strict=True):
                responses[i] = answer
        return responses

    def _image(self, request: Any) -> Array:
        """The tensor of a request without the axis that the workspace puts in front of an image's own."""
        image: Array = triton.get_input_tensor_by_name(request, "image").as_numpy()
        if image.shape == IMPOSSIBLE_SHAPE:
            return image
        axis = image.ndim - len(self._image_dims) - 1
        return image.reshape(image.shape[:axis] + image.shape[axis + 1 :])

    def _refusal(self, image: Array) -> Any | None:
        problem = None
        if image.shape[1:] != self._image_dims:
            problem = explain_shape(image.shape, self._image_dims, limit=self._limit)
        if not problem and image.nbytes > self._most_bytes:
            problem = f"image: expected at most {self._most_bytes} bytes in one request, found {image.nbytes}"
        return _error(problem, triton.TritonError.INVALID_ARG) if problem else None

    def _answer(self, images: list[Array], wanted: list[list[str]]) -> list[Any]:
        """Run the requests together or, where that fails, each by itself, so that only those at fault fail.

        Why a request failed is for the server's log; a caller could read paths of the server in it.
        """
        try:
            return list(self._run(images, wanted))
        except Exception:
            if len(images) > 1:
                return [self._answer([image], [names])[0] for image, names in zip(images, wanted, strict=True)]
            triton.Logger.log_error(f"image {list(images[0].shape)}: {traceback.format_exc()}")
            message = (
                "image: expected an answer of the model, found that it fails on this request; see the server's log"
            )
            return [_error(message, triton.TritonError.INTERNAL)]

    def _run(self, images: list[Array], wanted: list[list[str]]) -> Iterator[Any]:
        """All outputs are computed whatever is wanted; the graph has marked invalid images by their label."""
        batch = images[0] if len(images) == 1 else np.concatenate(images)
        outputs = dict(zip(self._names, self._session.run(None, {"image": batch}), strict=True))
        invalid = outputs["label"] == INVALID_LABEL
        if not invalid.any():
            invalid = None
        for image, names, rows in zip(images, wanted, _rows(images), strict=True):
            refusal = None if invalid is None else _pixel_refusal(image, invalid[rows])
            yield refusal or triton.InferenceResponse([triton.Tensor(name, outputs[name][rows]) for name in names])


def _session_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    for name, value in _SHORT_WAITS.items():
        options.add_session_config_entry(name, value)
    threads = config["parameters"].get("intra_op_thread_count")
    if threads:  # the parameter of the native backend
        options.intra_op_num_threads = int(threads["string_value"])
    return options


def _sample_image(tensor: Mapping[str, Any], model_dir: Path) -> Array:
    """The one image, as a batch, that Triton makes of an input of a warm-up sample."""
    dtype = np.dtype(triton.triton_string_to_numpy(tensor["data_type"]))
    shape = (1, *map(int, tensor["dims"]))
    size = math.prod(shape) * dtype.itemsize
    if tensor.get("zero_data"):
        data = bytes(size)
    elif tensor.get("random_data"):
        data = os.urandom(size)
    else:
        data = (model_dir / "warmup" / tensor["input_data_file"]).read_bytes()[:size]
    return np.frombuffer(data, dtype).reshape(shape)


def _error(message: str, code: int) -> Any:
    return triton.InferenceResponse(error=triton.TritonError(message, code))


def _rows(images: Iterable[Array]) -> Iterator[slice]:
    """Where each request's images lie in the batch."""
    start = 0
    for image in images:
        yield slice(start, start + len(image))
        start += len(image)


def _pixel_refusal(image: Array, invalid: NDArray[np.bool_]) -> Any | None:
    """What is wrong with the images of a request that are invalid, [N], if any are."""
    if not invalid.any():
        return None
    pixels = explain_pixels(image)
    if pixels:
        return _error(pixels, triton.TritonError.INVALID_ARG)
    network = (
        f"probabilities: expected numbers, found NaN for image {np.argmax(invalid)} of {len(image)}, whose pixels are "
        "valid"
    )
    return _error(network, triton.TritonError.INTERNAL)
