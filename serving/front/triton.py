"""Triton over gRPC, as the front asks it: one channel, and its errors as refusals that strangers may read."""

from __future__ import annotations

import asyncio
import http
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from tritonclient.grpc import model_config_pb2, service_pb2

from heatserve.serving.client.failures import NO_SHARED_MEMORY
from heatserve.serving.front.refusals import GrpcFailure, Refusal, unavailable

T = TypeVar("T")
Metadata = Sequence[tuple[str, str]] | None

_SERVICE = "/inference.GRPCInferenceService"
_ANSWER_SECONDS = 600.0
_SHORT_SECONDS = 2.0
_STATUSES: Mapping[str, tuple[int, str]] = {
    "INVALID_ARGUMENT": (400, "invalid"),
    "OUT_OF_RANGE": (400, "invalid"),
    "FAILED_PRECONDITION": (400, "invalid"),
    "NOT_FOUND": (404, "unknown"),
    "ALREADY_EXISTS": (409, "invalid"),
    "RESOURCE_EXHAUSTED": (429, "overloaded"),
    "UNIMPLEMENTED": (400, "invalid"),
    "UNAVAILABLE": (503, "unavailable"),
    "CANCELLED": (503, "unavailable"),
    "DEADLINE_EXCEEDED": (504, "timeout"),
}
_OF_THE_CONNECTION = re.compile(r"ipv[46]:|failed to connect|socket closed|connection|GOAWAY|recvmsg|\bstream\b", re.I)
# A path, a Python stack or the name of a region of shared memory: none of a stranger's business.
_PRIVATE = re.compile(r"/\w+/|Traceback|shared memory|\bFile \"", re.I)
# How a model of ours begins where it refuses a request; what follows are words of the caller, whatever they look like.
_REFUSED_BY_MODEL = re.compile(r"[^:/\n]{1,60}: expected ")
_MOST_TEXT = 1_000


class TritonCalls:
    """The calls of one event loop to the Triton at one address."""

    def __init__(self, address: str, tls: tuple[str, str, str] | None = None) -> None:
        """Open a channel, which connects with the first call.

        Args:
            address: HOST:PORT of its gRPC.
            tls: as `FrontState.grpc_tls`.
        """
        self._channel = _channel(address, tls)
        self._infer = self._method("ModelInfer", service_pb2.ModelInferRequest, service_pb2.ModelInferResponse)
        self._stream = self._channel.stream_stream(
            f"{_SERVICE}/ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self._config = self._method("ModelConfig", service_pb2.ModelConfigRequest, service_pb2.ModelConfigResponse)
        self._metadata = self._method(
            "ModelMetadata", service_pb2.ModelMetadataRequest, service_pb2.ModelMetadataResponse
        )
        self._statistics = self._method(
            "ModelStatistics", service_pb2.ModelStatisticsRequest, service_pb2.ModelStatisticsResponse
        )
        self._ready = self._method("ServerReady", service_pb2.ServerReadyRequest, service_pb2.ServerReadyResponse)
        self._model_ready = self._method("ModelReady", service_pb2.ModelReadyRequest, service_pb2.ModelReadyResponse)

    def _method(self, name: str, request: Any, response: Any) -> Callable[..., Awaitable[Any]]:
        call: Callable[..., Awaitable[Any]] = self._channel.unary_unary(
            f"{_SERVICE}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return call

    async def close(self) -> None:
        """Close the channel; calls on their way are given a while to end."""
        await self._channel.close(grace=_ANSWER_SECONDS)

    async def infer(self, message: service_pb2.ModelInferRequest, metadata: Metadata) -> service_pb2.ModelInferResponse:
        """The answer to a request.

        Raises:
            Refusal: there is none.
        """
        found: service_pb2.ModelInferResponse = await _answered(
            self._infer(message, timeout=_ANSWER_SECONDS, metadata=metadata)
        )
        return found

    async def stream(
        self, message: service_pb2.ModelInferRequest, metadata: Metadata
    ) -> AsyncGenerator[service_pb2.ModelInferResponse, None]:
        """The answers to a request as they come; closing the generator gives it up.

        An error is the last answer. It is told once the stream has ended: to leave before cancels the call in Triton.

        Raises:
            Refusal: there are no more, for a reason.
        """
        call = self._stream(iter([message]), timeout=_ANSWER_SECONDS, metadata=metadata)
        refusal: Refusal | None = None
        try:
            async for answer in call:
                if answer.error_message:
                    refusal = refusal or refusal_of("INVALID_ARGUMENT", answer.error_message)
                else:
                    yield answer.infer_response
        except grpc.aio.AioRpcError as error:
            raise refusal or refusal_of(error.code().name, error.details() or "") from None
        finally:
            call.cancel()
        if refusal is not None:
            raise refusal

    async def config(self, model: str, version: str) -> model_config_pb2.ModelConfig:
        """How Triton is configured for a model.

        Raises:
            Refusal: it has none of that name and version.
        """
        request = service_pb2.ModelConfigRequest(name=model, version=version)
        found: service_pb2.ModelConfigResponse = await _answered(self._config(request, timeout=_SHORT_SECONDS))
        return found.config

    async def model_metadata(self, model: str, version: str) -> service_pb2.ModelMetadataResponse:
        """Names, types and shapes of a model's inputs and outputs.

        Raises:
            Refusal: there is none of that name and version.
        """
        request = service_pb2.ModelMetadataRequest(name=model, version=version)
        found: service_pb2.ModelMetadataResponse = await _answered(self._metadata(request, timeout=_SHORT_SECONDS))
        return found

    async def statistics(self, model: str, version: str) -> service_pb2.ModelStatisticsResponse:
        """How much Triton has answered of a model since it started, and in what time.

        Raises:
            Refusal: there is none of that name and version.
        """
        request = service_pb2.ModelStatisticsRequest(name=model, version=version)
        found: service_pb2.ModelStatisticsResponse = await _answered(self._statistics(request, timeout=_SHORT_SECONDS))
        return found

    async def is_ready(self) -> bool:
        """Whether all models are ready.

        Raises:
            Refusal: it does not say.
        """
        return bool((await _answered(self._ready(service_pb2.ServerReadyRequest(), timeout=_SHORT_SECONDS))).ready)

    async def is_model_ready(self, model: str, version: str) -> bool:
        """Whether a model is ready.

        Raises:
            Refusal: it does not say.
        """
        request = service_pb2.ModelReadyRequest(name=model, version=version)
        return bool((await _answered(self._model_ready(request, timeout=_SHORT_SECONDS))).ready)


def _channel(address: str, tls: tuple[str, str, str] | None) -> Any:
    """A channel that asks once, but for calls that a connection which Triton replaces never took: those go on anew."""
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.enable_http_proxy", 0),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    certificate, own, name = tls
    shown = Path(own).read_bytes() if own else None
    credentials = grpc.ssl_channel_credentials(Path(certificate).read_bytes(), shown, shown)
    return grpc.aio.secure_channel(address, credentials, options=[*options, ("grpc.ssl_target_name_override", name)])


async def _answered(call: Awaitable[T]) -> T:
    """What a call returns.

    Raises:
        Refusal: it failed.
        CancelledError: the task was cancelled, and the call with it.
    """
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise refusal_of(error.code().name, error.details() or "") from None
    except grpc.aio.UsageError as error:  # the channel was closed, since Triton was started anew
        failure = GrpcFailure(type(error).__name__, str(error))
        raise unavailable("the model server was started again meanwhile").after(failure) from None


def refusal_of(code: str, details: str) -> Refusal:
    """What a status of gRPC means to a caller over HTTP, and its text for the log."""
    return _told(code, details).after(GrpcFailure(code, details))


def _told(code: str, details: str) -> Refusal:
    """The refusal with as much of the text as is a caller's business."""
    status, reason = _STATUSES.get(code, (http.HTTPStatus.INTERNAL_SERVER_ERROR, "failed"))
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        if _OF_THE_CONNECTION.search(details) or _PRIVATE.search(details) or not details:
            return unavailable("the model server does not answer now")
        return Refusal(status, details[:_MOST_TEXT], reason=reason, headers={b"retry-after": b"1"})
    if status == http.HTTPStatus.BAD_REQUEST and _REFUSED_BY_MODEL.match(details):
        return Refusal(status, details[:_MOST_TEXT], reason=reason)
    if NO_SHARED_MEMORY in details:  # behind it stands the name of the region
        return Refusal(503, f"{NO_SHARED_MEMORY}; ask again later", reason="overloaded", headers={b"retry-after": b"1"})
    if status == http.HTTPStatus.GATEWAY_TIMEOUT:
        return Refusal(status, "the model did not answer in time", reason=reason)
    if _PRIVATE.search(details):
        details = "the model failed on this request; the log of the server says more"
    return Refusal(status, details[:_MOST_TEXT], reason=reason)


async def closed_later(calls: TritonCalls) -> None:
    """Close calls that nobody begins any more, whatever becomes of those on their way."""
    try:
        await calls.close()
    except (asyncio.CancelledError, RuntimeError):  # the process ends
        return
