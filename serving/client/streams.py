"""One request that is answered many times: over gRPC, or over HTTP as server-sent events; blocking or for asyncio.

Each is a generator of answers. Closing it before its end gives the request up, which the server notices.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from heatserve.export.tiers import TIER_TENSORS
from heatserve.serving.client.failures import explained
from heatserve.serving.client.transport import InferResult, RequestParameters, Transport, grpc_message
from heatserve.serving.errors import ServingError
from heatserve.serving.pixels import Pixels

if TYPE_CHECKING:
    from tritonclient.grpc import service_pb2

_LONGEST_LINE = 2**16
_JSON_TYPES = {"INT64": int, "FP32": (int, float), "FP64": (int, float)}
_EVENTS = "text/event-stream"


@dataclass(frozen=True)
class StreamRequest:
    """One image, FP32 [1, C, H, W] or UINT8 [1, H, W, C], and what is asked about it."""

    model: str
    image: Pixels
    parameters: RequestParameters


def stream(transport: Transport, request: StreamRequest) -> Generator[InferResult, None, None]:
    """The answers to a request, as they come.

    Raises:
        ServingError: the server's message, or what it sends is no answer.
    """
    with explained(transport.url), closing(_ways(transport)[0](transport, request)) as answers:
        yield from answers


async def stream_asyncio(transport: Transport, request: StreamRequest) -> AsyncGenerator[InferResult, None]:
    """See `stream`."""
    with explained(transport.url):
        answers = _ways(transport)[1](transport, request)
        try:
            async for answer in answers:
                yield answer
        finally:
            await answers.aclose()


def _ways(transport: Transport) -> Any:
    return (_grpc, _grpc_asyncio) if transport.scheme == "grpc" else (_http, _http_asyncio)


def _grpc(transport: Transport, request: StreamRequest) -> Generator[InferResult, None, None]:
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    with grpc.insecure_channel(transport.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(
            iter([grpc_message(request.model, request.image, parameters=request.parameters)]), timeout=transport.timeout
        )
        try:
            for answer in call:
                yield _result(answer)
        finally:
            call.cancel()


async def _grpc_asyncio(transport: Transport, request: StreamRequest) -> AsyncGenerator[InferResult, None]:
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    async with grpc.aio.insecure_channel(transport.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(
            iter([grpc_message(request.model, request.image, parameters=request.parameters)]), timeout=transport.timeout
        )
        try:
            async for answer in call:
                yield _result(answer)
        finally:
            call.cancel()


def _result(answer: service_pb2.ModelStreamInferResponse) -> InferResult:
    from tritonclient.grpc import InferResult as GrpcResult
    from tritonclient.utils import InferenceServerException

    if answer.error_message:
        raise InferenceServerException(answer.error_message)
    result: InferResult = GrpcResult(answer.infer_response)
    return result


def _http(transport: Transport, request: StreamRequest) -> Generator[InferResult, None, None]:
    end = time.monotonic() + transport.timeout
    with closing(http.client.HTTPConnection(transport.address, timeout=transport.timeout)) as connection:
        connection.request("POST", _path(request), _body(request), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.headers.get_content_type() != _EVENTS:
            _refuse(answer.status, answer.read(_LONGEST_LINE))
        while line := answer.readline(_LONGEST_LINE):
            if time.monotonic() > end:  # the connection's timeout is that of each read
                raise TimeoutError
            if line.strip():
                yield read_event(line)


async def _http_asyncio(transport: Transport, request: StreamRequest) -> AsyncGenerator[InferResult, None]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=transport.timeout)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(
            transport.url + _path(request), data=_body(request), headers={"Content-Type": "application/json"}
        ) as answer,
    ):
        if answer.content_type != _EVENTS:
            _refuse(answer.status, await answer.content.read(_LONGEST_LINE))
        while line := await _line(answer.content):
            if line.strip():
                yield read_event(line)


async def _line(content: Any) -> bytes:
    try:
        line: bytes = await content.readline()
    except ValueError:  # longer than aiohttp takes
        raise _no_event(b"a longer line") from None
    return line


def _path(request: StreamRequest) -> str:
    return f"/v2/models/{quote(request.model)}/generate_stream"


def _body(request: StreamRequest) -> bytes:
    """The image as a flat list, as Triton's extension `generate` takes it; each other key is a parameter."""
    return json.dumps({"image": request.image.ravel().tolist(), **request.parameters}).encode()


def _refuse(status: int, body: bytes) -> None:
    from tritonclient.utils import InferenceServerException

    try:
        message = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError):
        raise http.client.HTTPException(f"expected server-sent events, found HTTP status {status}") from None
    raise InferenceServerException(str(message), status=str(status))


@dataclass(frozen=True)
class _Event:
    """The answer in one server-sent event: JSON with a number, a text or a list of numbers for each output."""

    outputs: Mapping[str, Any]

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
            if isinstance(one, bool) or not isinstance(one, _JSON_TYPES[tensor.datatype]):  # type: ignore[arg-type]
                raise TypeError(f"{tensor.datatype} expected, {type(one).__name__} found")
        return np.array([values], dtype=tensor.dtype)


def read_event(line: bytes) -> InferResult:
    """The answer in a line `data: {…}` of server-sent events.

    Raises:
        ServingError: the line is not an event.
        InferenceServerException: the server's message.
    """
    from tritonclient.utils import InferenceServerException

    field, _, data = line.partition(b":")
    try:
        outputs = json.loads(data)
    except ValueError:
        raise _no_event(line) from None
    if field != b"data" or not isinstance(outputs, dict):
        raise _no_event(line)
    if "error" in outputs:
        raise InferenceServerException(str(outputs["error"]))
    return _Event(outputs)


def _no_event(line: bytes) -> ServingError:
    return ServingError(f"expected an event `data: {{…}}` from the server, found {line[:80]!r}")
