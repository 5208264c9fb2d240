"""A tier in Triton, on its Python backend: `NAME_confirm`, `NAME_certify`, `NAME_certify_stream` or `NAME_cascade`.

It checks a request, runs the single pass, and asks the process that votes (`heatserve.serving.tiers.voter`). While
votes are taken it takes further requests: `execute` returns at once, and each request is answered in its own time.
"""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from numpy.typing import NDArray

from heatserve.certification.noise import GRID
from heatserve.certification.radius import Float32Array
from heatserve.export.card import read_card
from heatserve.export.contract import INVALID_LABEL
from heatserve.export.tiers import Mode, Tier, TierModel, TierReason, parse_limits
from heatserve.serving.backend.shapes import survive_impossible_shapes
from heatserve.serving.batching import request_bytes
from heatserve.serving.errors import OverloadedError, ServingError, UnavailableError
from heatserve.serving.observed.counting import RequestCounts, RequestOutcome, TierCounts, faults_of
from heatserve.serving.observed.probes import is_probe
from heatserve.serving.observed.recorder import Recorder
from heatserve.serving.pixels import IMPOSSIBLE_SHAPE, explain_pixels, explain_shape
from heatserve.serving.tiers.answering import ImageAnswer, tensors_of
from heatserve.serving.tiers.questions import CheckedQuestion, QuestionError, QuestionRules
from heatserve.serving.tiers.single_pass import Passed, SinglePass
from heatserve.serving.tiers.waiting import TierRequest, WaitingRequests
from heatserve.serving.votable import votable_pixels
from heatserve.serving.vote_protocol import socket_folder

_FINAL = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TierInstance:
    """One tier of one certified model: Triton knows it as `TritonPythonModel`, and the methods are Triton's."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph of the single pass, and connect to the process that votes.

        Raises:
            CardError: no card, or a card of other graphs. Triton reports the model as failed.
        """
        version_dir = Path(args["model_repository"]) / args["model_version"]
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        card = read_card(version_dir)
        self._kind = TierModel(parameters["tier"])
        self._limits = parse_limits(parameters)
        self._image_dims = tuple(map(int, config["input"][0]["dims"]))
        self._most_images = int(config["max_batch_size"])
        item_bytes = np.dtype(triton.triton_string_to_numpy(config["input"][0]["data_type"])).itemsize
        self._most_bytes = request_bytes(self._image_dims, item_bytes=item_bytes, limit=self._most_images)
        if -1 in self._image_dims:
            survive_impossible_shapes(lambda: triton.Tensor("image", np.zeros(1, np.uint8)))
        shape, classes = card.input_shape, len(card.class_names)
        self._rules = QuestionRules(self._kind, self._limits, sigma=card.sigma, classes=classes, shape=shape)
        self._pass = SinglePass(version_dir, card) if self._kind.asks_radius else None
        self._pixels = votable_pixels(version_dir, card)
        self._counts = _Counts(Recorder.of_environment(), model=parameters["model"], tier=self._kind.value)
        self._waiting = WaitingRequests(
            # The voter of this version: a link leads from Triton's repository to the folder of its offer.
            socket_folder(Path(args["model_repository"]).resolve().parent, parameters["model"]),
            kind=self._kind,
            shape=shape,
            classes=classes,
            queue=self._limits.queue,
            log=triton.Logger.log_error,
        )
        self._waiting.start()
        gc.freeze()  # nothing that is loaded will be garbage: to look at it would hold requests up

    def execute(self, requests: list[Any]) -> None:
        """Begin to answer requests; each is answered through its own sender."""
        for request in requests:
            caller = _TritonCaller(request, self._kind, self._counts)
            try:
                self._begin(request, caller)
            except ServingError as error:
                caller.fail(error)
            except Exception:  # why is for the server's log; a caller could read paths of the server in it
                triton.Logger.log_error(traceback.format_exc())
                caller.fail(ServingError("expected an answer, found that the server fails on this; see its log"))

    def finalize(self) -> None:
        """Answer what is open, for which Triton does not wait by itself, then end the connection."""
        self._waiting.stop()

    def _begin(self, request: Any, caller: _TritonCaller) -> None:
        question = self._rules.question(_parameters(request))
        caller.top_k = question.top_k
        image = self._image(request)
        if question.deadline_ms and question.mode is Mode.ANY:  # before anything is spent on it
            self._waiting.check_room(len(image), deadline_ms=question.deadline_ms)
        passed = self._pass.run(image) if self._pass else None
        pixels = self._pixels(image)
        answers = [self._before_votes(index, passed, question) for index in range(len(image))]
        asked = {index: pixels[index] for index, answer in enumerate(answers) if answer.reason is TierReason.DEADLINE}
        self._check_sampling(asked)
        deadline = caller.came + question.deadline_ms / 1000
        self._waiting.add(TierRequest(caller, question, deadline, answers), asked if question.deadline_ms else {})

    def _image(self, request: Any) -> NDArray[Any]:
        """The tensor of a request, checked, without the axis that the workspace puts in front of an image's own."""
        image: NDArray[Any] = triton.get_input_tensor_by_name(request, "image").as_numpy()
        if image.shape != IMPOSSIBLE_SHAPE:
            axis = image.ndim - len(self._image_dims) - 1
            image = image.reshape(image.shape[:axis] + image.shape[axis + 1 :])
        if problem := explain_shape(image.shape, self._image_dims, limit=self._most_images):
            raise QuestionError(problem, faults=["shape"])
        if image.nbytes > self._most_bytes:
            problem = f"image: expected at most {self._most_bytes} bytes in one request, found {image.nbytes}"
            raise QuestionError(problem, faults=["size"])
        if problem := explain_pixels(image):
            raise QuestionError(problem, faults=faults_of(image))
        return image

    def _before_votes(self, index: int, passed: Passed | None, question: CheckedQuestion) -> ImageAnswer:
        """The answer to an image while no votes are there."""
        if passed is None:
            return ImageAnswer(INVALID_LABEL, question.alpha, Tier.CERTIFY)
        label, radius = int(passed.label[index]), float(passed.certified_radius[index])
        tier, reason = Tier.CONFIRM, TierReason.DEADLINE
        if label == INVALID_LABEL:
            reason = TierReason.INVALID
        elif question.mode is Mode.CLAIMED and radius < question.radius:
            tier, reason = Tier.ONE_PASS, TierReason.NOT_CLAIMED
        return ImageAnswer(label, question.alpha, tier, reason, certified_radius=radius)

    def _check_sampling(self, images: dict[int, Float32Array]) -> None:
        if self._limits.sampling == GRID.key:
            for index, image in images.items():
                if not GRID.suits(image):
                    raise QuestionError(
                        f"image: expected images of 8 bits, multiples of 1/255, found that image {index} is not of 8 "
                        "bits; the operator of this model asks for noise on the 8-bit grid (sampling: grid)",
                        faults=["sampling"],
                    )


def _parameters(request: Any) -> str:
    """The parameters of a request as JSON."""
    try:
        return str(request.parameters())
    except UnicodeDecodeError:
        raise QuestionError("parameters: expected text in UTF-8, got other bytes") from None


class _Counts:
    """What one tier counts: requests, and the images that it answers."""

    def __init__(self, recorder: Recorder, *, model: str, tier: str) -> None:
        self._requests = RequestCounts(recorder, model=model, tier=tier)
        self._images = TierCounts(recorder, model=model, tier=tier)

    def answered(self, answers: Sequence[ImageAnswer], *, came: float) -> None:
        found = ((answer.outcome.value, answer.reason.value) for answer in answers)
        self._images.count(found, votes=sum(answer.votes for answer in answers))
        self._requests.count(RequestOutcome.ANSWERED, came=came)

    def failed(self, outcome: RequestOutcome, error: ServingError | None, *, came: float) -> None:
        if isinstance(error, QuestionError):
            self._requests.count_invalid(error.faults)
        self._requests.count(outcome, came=came)


class _TritonCaller:
    """Who waits for one request, as Triton's Python backend knows it."""

    def __init__(self, request: Any, kind: TierModel, counts: _Counts) -> None:
        self.came = time.monotonic()
        self.top_k = 1
        self._is_counted = not is_probe(request.request_id())
        self._sender = request.get_response_sender()
        self._wanted = request.requested_output_names()
        self._kind = kind
        self._counts = counts

    def answer(self, answers: Sequence[ImageAnswer], *, is_final: bool) -> None:
        tensors = tensors_of(answers, self._kind, top_k=self.top_k)
        if is_final and self._is_counted:
            self._counts.answered(answers, came=self.came)
        wanted = [triton.Tensor(name, values) for name, values in tensors.items() if name in self._wanted]
        self._send(wanted, is_final=is_final)

    def fail(self, error: ServingError | None) -> None:
        if error is None:
            outcome, code = RequestOutcome.CANCELLED, triton.TritonError.CANCELLED
        elif isinstance(error, QuestionError):
            outcome, code = RequestOutcome.INVALID, triton.TritonError.INVALID_ARG
        elif isinstance(error, OverloadedError):
            outcome, code = RequestOutcome.OVERLOADED, triton.TritonError.UNAVAILABLE
        elif isinstance(error, UnavailableError):
            outcome, code = RequestOutcome.UNAVAILABLE, triton.TritonError.UNAVAILABLE
        else:
            outcome, code = RequestOutcome.FAILED, triton.TritonError.INTERNAL
        if self._is_counted:
            self._counts.failed(outcome, error, came=self.came)
        self._send([], triton.TritonError(str(error or "the caller is gone"), code))

    def is_gone(self) -> bool:
        return bool(self._sender.is_cancelled())

    def _send(self, tensors: list[Any], error: Any = None, *, is_final: bool = True) -> None:
        try:
            self._sender.send(triton.InferenceResponse(tensors, error), flags=_FINAL if is_final else 0)
        except Exception:  # there is nobody left to tell
            triton.Logger.log_error(traceback.format_exc())
