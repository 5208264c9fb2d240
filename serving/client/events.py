"""Server-sent events, as which Triton answers a request several times over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.export.tiers import TIER_TENSORS
from heatserve.serving.client.failures import Refused
from heatserve.serving.client.messages import InferRequest, InferResult
from heatserve.serving.errors import ServingError

_LONGEST_LINE = 2**16
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {"INT64": (int,), "FP32": (int, float), "FP64": (int, float)}
_EVENTS = "text/event-stream"


def event_body(request: InferRequest) -> bytes:
    """The image as a flat list, as Triton's extension `generate` takes it; each other key is a parameter."""
    return json.dumps({"image": request.images.ravel().tolist(), **request.parameters}).encode()


class EventLines:
    """Lines of events, from the parts in which they come."""

    def __init__(self, content_type: str) -> None:
        """Begin.

        Raises:
            ServingError: these are no events.
        """
        if content_type.partition(";")[0].strip().lower() != _EVENTS:
            raise ServingError(f"expected server-sent events from the server, found {content_type!r:.80}")
        self._rest = b""

    def results(self, chunk: bytes) -> Iterator[InferResult]:
        """The answers in the lines that end in a part.

        Raises:
            ServingError: a line is no event, or longer than any.
            Refused: the server's message.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise _no_event(self._rest)
        for line in lines:
            if line.strip():
                yield read_event(line)


@dataclass(frozen=True)
class _Event:
    """The answer in one server-sent event: JSON with a number, a text or a list of numbers for each output."""

    outputs: Mapping[str, Any]

    @property
    def request_id(self) -> str:
        """None: an event does not say it."""
        return ""

    @property
    def model_version(self) -> str:
        """See `InferResult`."""
        return str(self.outputs.get("model_version", ""))

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        """The output [1, k] of that name, of the type of the contract; None where the event has none.

        Raises:
            TypeError: it is of another type.
            OverflowError: a whole number is too large.
        """
        if name not in self.outputs:
            return None
        (tensor,) = (tensor for tensor in TIER_TENSORS if tensor.name == name)
        value = self.outputs[name]
        values = value if isinstance(value, list) else [value]
        for one in values:
            if isinstance(one, bool) or not isinstance(one, _JSON_TYPES[tensor.datatype]):
                raise TypeError(f"{tensor.datatype} expected, {type(one).__name__} found")
        return np.array([values], dtype=tensor.dtype)


def read_event(line: bytes) -> InferResult:
    """The answer in a line `data: {…}` of server-sent events.

    Raises:
        ServingError: the line is not an event.
        Refused: the server's message.
    """
    field, _, data = line.partition(b":")
    try:
        outputs = json.loads(data)
    except ValueError:
        raise _no_event(line) from None
    if field != b"data" or not isinstance(outputs, dict):
        raise _no_event(line)
    if "error" in outputs:
        raise Refused("", str(outputs["error"]))
    return _Event(outputs)


def _no_event(line: bytes) -> ServingError:
    return ServingError(f"expected an event `data: {{…}}` from the server, found {line[:80]!r}")
