"""Triton's `onnxruntime` backend in Python: ONNX Runtime on `<repository>/<model>/<version>/model.onnx`.

Triton's core starts one process per model instance, which runs this file. It serves the repository that the native
backend serves, and answers what the native backend cannot: an error that says which pixels of which image are invalid.
"""

from __future__ import annotations

import gc
import json
import math
import os
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from heatserve.serving.observed.counting import AnswerCounts, RequestCounts, RequestOutcome, faults_of
from heatserve.serving.observed.probes import is_probe
from heatserve.serving.observed.recorder import Recorder
from heatserve.serving.pixels import IMPOSSIBLE_SHAPE, explain_pixels, explain_shape
from heatserve.serving.shadow.audited import Audited

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
        card = verify_card(version_dir)
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
        recorder = Recorder.of_environment()
        self._requests = RequestCounts(recorder, model=card.model)
        self._images = AnswerCounts(recorder, model=card.model, class_names=card.class_names)
        self._audited = Audited(version_dir, card, recorder)
        for sample in config.get("model_warmup", ()):
            self._rehearse(sample, version_dir.parent)
        self._warm_ups = _warm_up_requests(config)
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
            asked = _Asked(image, ["label"], is_counted=False)
            answers = [refusal] if refusal else self._run([asked] * count)
            errors = [answer.response.error().message() for answer in answers if answer.response.has_error()]
            if errors:
                raise ValueError("; ".join(errors))
        except Exception as error:
            raise RuntimeError(f"failed to run warmup sample '{sample['name']}': {error}") from None

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests that dynamic batching hands over together, in runs of at most the bytes of one request.

        A request that is not valid, or that cannot be answered, is answered with an error; the others are answered
        as if it were absent.
        """
        came = time.monotonic()
        asked = [self._asked(request) for request in requests]
        answers = [self._refusal(each.image) for each in asked]
        valid = [i for i, refusal in enumerate(answers) if refusal is None]
        for group in groups([asked[i].image.nbytes for i in valid], self._most_bytes):
            together = [valid[j] for j in group]
            for i, answer in zip(together, self._answer([asked[i] for i in together]), strict=True):
                answers[i] = answer
        given = [answer for answer in answers if answer is not None]
        self._count([answer for each, answer in zip(asked, given, strict=True) if each.is_counted], came=came)
        return [answer.response for answer in given]

    def _count(self, answers: Sequence[_Answer], *, came: float) -> None:
        for outcome, requests in Counter(answer.outcome for answer in answers).items():
            self._requests.count(outcome, came=came, requests=requests)
        for answer in answers:
            self._requests.count_invalid(answer.faults)

    def _asked(self, request: Any) -> _Asked:
        """A request; those of the server to itself are not counted, nor the first ones, with which Triton warms up."""
        is_counted = self._warm_ups <= 0 and not is_probe(request.request_id())
        self._warm_ups -= 1
        return _Asked(self._image(request), request.requested_output_names(), is_counted)

    def _image(self, request: Any) -> Array:
        """The tensor of a request without the axis that the workspace puts in front of an image's own."""
        image: Array = triton.get_input_tensor_by_name(request, "image").as_numpy()
        if image.shape == IMPOSSIBLE_SHAPE:
            return image
        axis = image.ndim - len(self._image_dims) - 1
        return image.reshape(image.shape[:axis] + image.shape[axis + 1 :])

    def _refusal(self, image: Array) -> _Answer | None:
        if image.shape[1:] != self._image_dims and (
            problem := explain_shape(image.shape, self._image_dims, limit=self._limit)
        ):
            return _invalid(problem, ["shape"])
        if image.nbytes > self._most_bytes:
            problem = f"image: expected at most {self._most_bytes} bytes in one request, found {image.nbytes}"
            return _invalid(problem, ["size"])
        return None

    def _answer(self, asked: Sequence[_Asked]) -> list[_Answer]:
        """Run the requests together or, where that fails, each by itself, so that only those at fault fail.

        Why a request failed is for the server's log; a caller could read paths of the server in it.
        """
        try:
            return list(self._run(asked))
        except Exception:
            if len(asked) > 1:
                return [self._answer([each])[0] for each in asked]
            triton.Logger.log_error(f"image {list(asked[0].image.shape)}: {traceback.format_exc()}")
            return [
                _failed(
                    "image: expected an answer of the model, found that it fails on this request; see the server's log"
                )
            ]

    def _run(self, asked: Sequence[_Asked]) -> Iterator[_Answer]:
        """All outputs are computed whatever is wanted; the graph has marked invalid images by their label."""
        images = [each.image for each in asked]
        batch = images[0] if len(images) == 1 else np.concatenate(images)
        outputs = dict(zip(self._names, self._session.run(None, {"image": batch}), strict=True))
        self._audited.withdraw(outputs)
        invalid = outputs["label"] == INVALID_LABEL
        refusals: list[_Answer | None] = [None] * len(asked)
        if invalid.any():
            refusals = [
                _pixel_refusal(each.image, invalid[rows]) for each, rows in zip(asked, _rows(images), strict=True)
            ]
        for each, rows, refusal in zip(asked, _rows(images), refusals, strict=True):
            yield refusal or _Answer(
                triton.InferenceResponse([triton.Tensor(name, outputs[name][rows]) for name in each.outputs])
            )
        is_counted = [each.is_counted and not refusal for each, refusal in zip(asked, refusals, strict=True)]
        among = np.repeat(is_counted, [len(image) for image in images])
        self._count_images(among, outputs)
        self._audited.offer(batch, outputs, among=among)

    def _count_images(self, among: NDArray[np.bool_], outputs: Mapping[str, Array]) -> None:
        if not among.all():
            outputs = {name: values[among] for name, values in outputs.items()}
        self._images.count(outputs)


@dataclass(frozen=True)
class _Asked:
    """A request: its images, the outputs that are wanted, and whether it is one of a caller's."""

    image: Array
    outputs: list[str]
    is_counted: bool


@dataclass(frozen=True)
class _Answer:
    """What is answered to a request, as Triton takes it, and how it is counted."""

    response: Any
    outcome: RequestOutcome = RequestOutcome.ANSWERED
    faults: Collection[str] = ()


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


def _warm_up_requests(config: Mapping[str, Any]) -> int:
    """How many requests of one image Triton makes of the samples of the warm-up."""
    samples = config.get("model_warmup", ())
    return sum(max(1, int(sample.get("count", 0))) * max(1, int(sample["batch_size"])) for sample in samples)


def _invalid(message: str, faults: Collection[str]) -> _Answer:
    error = triton.TritonError(message, triton.TritonError.INVALID_ARG)
    return _Answer(triton.InferenceResponse(error=error), RequestOutcome.INVALID, faults)


def _failed(message: str) -> _Answer:
    error = triton.TritonError(message, triton.TritonError.INTERNAL)
    return _Answer(triton.InferenceResponse(error=error), RequestOutcome.FAILED)


def _rows(images: Iterable[Array]) -> Iterator[slice]:
    """Where each request's images lie in the batch."""
    start = 0
    for image in images:
        yield slice(start, start + len(image))
        start += len(image)


def _pixel_refusal(image: Array, invalid: NDArray[np.bool_]) -> _Answer | None:
    """What is wrong with the images of a request that are invalid, [N], if any are."""
    if not invalid.any():
        return None
    if pixels := explain_pixels(image):
        return _invalid(pixels, faults_of(image))
    return _failed(
        f"probabilities: expected numbers, found NaN for image {np.argmax(invalid)} of {len(image)}, whose pixels are "
        "valid"
    )
