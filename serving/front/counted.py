"""Requests and answers of single passes that the front counts: those of a backend that counts nothing itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatserve.export.contract import INVALID_LABEL, OUTPUT_TENSORS
from heatserve.serving.observed.counting import AnswerCounts, RequestCounts, RequestOutcome
from heatserve.serving.observed.facts import PassedFacts
from heatserve.serving.observed.recorder import Recorder

if TYPE_CHECKING:
    from tritonclient.grpc import service_pb2 as pb

_DTYPES = {
    tensor.name: tensor.dtype for tensor in OUTPUT_TENSORS if tensor.name in ("label", "certified_radius", "reason")
}
_INVALID = (400, 413)
_UNAVAILABLE = (503, 504)
_LEFT = 499


class PassedCounts:
    """What passes through the front to models that the server declared as not counted by their backend."""

    def __init__(self, recorder: Recorder, folder: Path | None) -> None:
        """Describe it.

        Args:
            recorder: of this process.
            folder: that of the server's metrics, in which it declares its models; None: nothing is counted.
        """
        self._recorder = recorder
        self._facts = PassedFacts(folder) if folder else None
        self._counts = dict[str, tuple[list[str], RequestCounts, AnswerCounts]]()

    def answered(self, model: str, response: pb.ModelInferResponse) -> None:
        """Count the images of an answer, as far as it has the outputs that say something of them."""
        counts = self._of(model)
        if counts is None:
            return
        outputs = _outputs(response)
        if (outputs.get("label", np.empty(0)) == INVALID_LABEL).any():  # this backend answers them, without an error
            counts[0].count_invalid(["other"])
        counts[1].count(outputs)

    def ended(self, model: str, *, status: int, reason: str, seconds: float) -> None:
        """Count a request by its status, and the reason of a refusal."""
        counts, outcome = self._of(model), _outcome(status, reason)
        if counts is not None and outcome is not None:
            counts[0].count(outcome, came=time.monotonic() - seconds)
            if outcome is RequestOutcome.INVALID:
                counts[0].count_invalid(["size" if status == 413 else "other"])

    def _of(self, model: str) -> tuple[RequestCounts, AnswerCounts] | None:
        class_names = self._facts.class_names(model) if self._facts else None
        if class_names is None:
            return None
        known = self._counts.get(model)
        if known is None or known[0] is not class_names:
            requests = RequestCounts(self._recorder, model=model)
            answers = AnswerCounts(self._recorder, model=model, class_names=class_names)
            known = self._counts[model] = (class_names, requests, answers)
        return known[1:]


def _outputs(response: pb.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """The outputs that are counted, of those that an answer has; not those that were asked for as names of classes."""
    return {
        tensor.name: np.frombuffer(content, _DTYPES[tensor.name])
        for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True)
        if tensor.name in _DTYPES and tensor.datatype != "BYTES"
    }


def _outcome(status: int, reason: str) -> RequestOutcome | None:
    """What became of a request; None: it never was one to the model, such as one without a token."""
    if status < 400:
        return RequestOutcome.ANSWERED
    if reason == "overloaded":
        return RequestOutcome.OVERLOADED
    if status in _INVALID:
        return RequestOutcome.INVALID
    if status in _UNAVAILABLE:
        return RequestOutcome.UNAVAILABLE
    if status == _LEFT:
        return RequestOutcome.CANCELLED
    return RequestOutcome.FAILED if status >= 500 else None
