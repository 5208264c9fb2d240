"""Requests as the bytes that go over the wire, made once: asking again then costs little beside answering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from heatserve.benchmarks.records.load import Protocol, RequestKind
from heatserve.benchmarks.wire import HttpMessage
from heatserve.export.card import InputType
from heatserve.export.contract import OUTPUT_NAMES
from heatserve.serving.client.http_answers import infer_path
from heatserve.serving.client.messages import JSON_LENGTH, InferRequest, grpc_message, http_message
from heatserve.serving.pixels import Pixels


@dataclass(frozen=True)
class LoadRequest:
    """One kind of request. Its messages take the images in turn."""

    tier: str
    model: str
    protocol: Protocol
    images: Pixels
    """[M, …] as the model takes them; M is a multiple of `count`."""
    count: int = 1
    """The images of one request."""
    outputs: tuple[str, ...] = OUTPUT_NAMES
    parameters: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def kind(self) -> RequestKind:
        """What a record says of it."""
        input_type: InputType = "UINT8" if self.images.dtype == "uint8" else "FP32"
        return RequestKind(tier=self.tier, protocol=self.protocol, input=input_type, images=self.count)

    def messages(self, url: str) -> tuple[bytes, ...]:
        """Each different request as bytes: of gRPC the serialised message, of HTTP all that is sent.

        Args:
            url: where they go, `grpc://host:port` or `http://host:port`.
        """
        parts = [self.images[at : at + self.count] for at in range(0, len(self.images), self.count)]
        if self.protocol == "grpc":
            return tuple(grpc_message(self._request(part)).SerializeToString() for part in parts)
        return tuple(self._http(part).encoded(url.removeprefix("http://")) for part in parts)

    def first_http(self) -> HttpMessage:
        """The first request over HTTP."""
        return self._http(self.images[: self.count])

    def _http(self, images: Pixels) -> HttpMessage:
        body, json_size = http_message(self._request(images))
        headers = (("Content-Type", "application/octet-stream"), (JSON_LENGTH, str(json_size)))
        return HttpMessage(infer_path(self.model), body, headers=headers)

    def _request(self, images: Pixels) -> InferRequest:
        return InferRequest(self.model, images, self.outputs, self.parameters)
