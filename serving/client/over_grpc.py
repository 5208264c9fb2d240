"""gRPC to one server: blocking, for any number of threads, and for asyncio.

A channel of gRPC waits longer and longer between attempts to connect, up to two minutes, and shares that time with all
channels of the process to the same server. And a connection whose other end is gone without a word fails every request
at its deadline. So a client has connections of its own, and leaves one that failed: the next request makes another.

gRPC is made of threads, and a process that is forked has none of its parent's. It works there if no call was on its way
at that moment, and the library was built for it; else it may neither answer nor keep its deadline. So calls in such a
process are watched from outside.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from heatserve.serving.client.access import Access
from heatserve.serving.client.bounded import bounded
from heatserve.serving.client.failures import Refused, forked
from heatserve.serving.client.messages import GrpcResult, InferRequest, InferResult, grpc_message
from heatserve.serving.errors import TooLateError

if TYPE_CHECKING:
    from tritonclient.grpc import service_pb2

_SERVICE = "/inference.GRPCInferenceService"
_CONNECT_MS = 3_000  # for one attempt: a lost packet is sent again after one second
_BACK_OFF_MS = (50, 500)
_FORKED_SECONDS = 1.0  # after the deadline, which gRPC may miss in a process that was forked


class _Process:
    """What this process knows of gRPC in itself, and in those that it was forked from."""

    def __init__(self) -> None:
        self.has_opened = False
        self.calls = set[object]()
        self.is_forked = False
        """gRPC was used in a process before this one."""
        self.was_busy = False
        """A call was on its way there when this one began."""
        self.inherited = list[object]()
        """Channels of a process before this one: to destroy them here could hang."""

    def begin_forked(self) -> None:
        """What a process begins with that was forked."""
        self.is_forked = self.is_forked or self.has_opened
        self.was_busy = self.was_busy or bool(self.calls)
        self.has_opened, self.calls = False, set()


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.begin_forked)


class _Channel:
    """One channel, and what is called on it."""

    def __init__(self, access: Access, library: Any) -> None:
        """Open it; it connects with the first call.

        Args:
            access: to the server.
            library: `grpc` or `grpc.aio`.
        """
        from tritonclient.grpc import service_pb2

        self.process = os.getpid()
        self._lock = threading.Lock()
        self._calls = 0
        self._is_left = False
        _process.has_opened = True
        self.channel = _open(access, library)
        path = f"{access.address.prefix}{_SERVICE}"
        self.config = self.channel.unary_unary(
            f"{path}/ModelConfig",
            request_serializer=service_pb2.ModelConfigRequest.SerializeToString,
            response_deserializer=service_pb2.ModelConfigResponse.FromString,
        )
        self.infer = self.channel.unary_unary(
            f"{path}/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        self.stream = self.channel.stream_stream(
            f"{path}/ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

    def enter(self, call: object) -> bool:
        """Begin a call, unless the channel was left."""
        with self._lock:
            if self._is_left:
                return False
            self._calls += 1
        _process.calls.add(call)
        return True

    def exit(self, call: object, *, leave: bool) -> bool:
        """End a call, and leave the channel if told to; whether to close it, since nobody needs it any more."""
        _process.calls.discard(call)
        with self._lock:
            self._calls -= 1
            self._is_left = self._is_left or leave
            return self._is_left and not self._calls

    def leave(self) -> bool:
        """Begin no more calls; whether to close it, since none is on its way."""
        with self._lock:
            self._is_left = True
            return not self._calls


def _open(access: Access, library: Any) -> Any:
    import grpc

    first, longest = _BACK_OFF_MS
    proxy = access.address.proxy
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", first),
        ("grpc.max_reconnect_backoff_ms", longest),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
        ("grpc.enable_http_proxy", 0) if proxy is None else ("grpc.http_proxy", proxy),
    ]
    if access.server_name is not None:
        options.append(("grpc.ssl_target_name_override", access.server_name))
    target = access.address.host_and_port
    if not access.address.is_encrypted:
        return library.insecure_channel(target, options=options)
    return library.secure_channel(target, grpc.ssl_channel_credentials(**access.tls.grpc_files()), options=options)


class GrpcTransport:
    """Blocking, for any number of threads and forked processes."""

    def __init__(self, access: Access) -> None:
        """Describe the way; the first request connects.

        Raises:
            ServingError: a certificate cannot be read.
        """
        self._access = access
        if access.address.is_encrypted:
            access.tls.context()
        self._current: _Channel | None = None

    def config(self, model: str, version: str = "", *, seconds: float) -> Mapping[str, Any]:
        """A model's configuration, or that of one of its versions, as its message in JSON."""
        from tritonclient.grpc import service_pb2

        return _as_json(self._call("config", service_pb2.ModelConfigRequest(name=model, version=version), seconds))

    def infer(self, request: InferRequest, *, seconds: float) -> InferResult:
        """The answer to a request."""
        return GrpcResult(self._call("infer", grpc_message(request), seconds))

    def stream(self, request: InferRequest, *, seconds: float) -> Generator[InferResult, None, None]:
        """The answers to a request, as they come."""
        with self._channel() as channel:
            call = channel.stream(iter([grpc_message(request)]), timeout=seconds, metadata=_metadata(self._access))
            try:
                while (answer := self._watched(partial(next, call, None), seconds)) is not None:
                    yield _result(answer)
            finally:
                call.cancel()

    def close(self) -> None:
        """Close the connection once no request is on its way; a request after that makes another.

        To close it before would cancel what others ask, which can abort a Triton before 2.70.
        """
        current, self._current = self._current, None
        if current is not None and current.process == os.getpid() and current.leave():
            current.channel.close()

    def _call(self, name: str, message: object, seconds: float) -> Any:
        metadata = _metadata(self._access)
        with self._channel() as channel:
            call = partial(getattr(channel, name), message, timeout=seconds, metadata=metadata)
            return self._watched(call, seconds)

    def _watched(self, call: Any, seconds: float) -> Any:
        """What a call returns; in a process that was forked not later than the deadline, whatever gRPC does."""
        if not _process.is_forked:
            return call()
        try:
            return bounded(call, seconds + _FORKED_SECONDS)
        except TimeoutError:
            raise forked(self._access.address.url, "no answer in time") from None

    @contextmanager
    def _channel(self) -> Iterator[_Channel]:
        """The channel for one call. Threads that ask at once may make several; the last one stays."""
        import grpc

        if _process.was_busy:
            raise forked(self._access.address.url, "it was asked from another thread at that moment")
        call, current = object(), self._current
        if current is not None and current.process != os.getpid():
            _process.inherited.append(current)
            current = None
        while current is None or not current.enter(call):
            current = self._current = _Channel(self._access, grpc)
        is_lost = False
        try:
            yield current
        except BaseException as error:
            is_lost = _is_of_the_connection(error)
            raise
        finally:
            if is_lost and self._current is current:
                self._current = None
            if current.exit(call, leave=is_lost):
                if _process.is_forked:
                    _process.inherited.append(current)
                else:
                    current.channel.close()


class AsyncGrpcTransport:
    """`GrpcTransport` for the tasks of one event loop."""

    def __init__(self, access: Access) -> None:
        """See `GrpcTransport`."""
        self._access = access
        if access.address.is_encrypted:
            access.tls.context()
        self._current: _Channel | None = None

    async def config(self, model: str, version: str = "", *, seconds: float) -> Mapping[str, Any]:
        """See `GrpcTransport.config`."""
        from tritonclient.grpc import service_pb2

        return _as_json(
            await self._call("config", service_pb2.ModelConfigRequest(name=model, version=version), seconds)
        )

    async def infer(self, request: InferRequest, *, seconds: float) -> InferResult:
        """See `GrpcTransport.infer`."""
        return GrpcResult(await self._call("infer", grpc_message(request), seconds))

    async def stream(self, request: InferRequest, *, seconds: float) -> AsyncGenerator[InferResult, None]:
        """See `GrpcTransport.stream`."""
        async with self._channel() as channel:
            call = channel.stream(iter([grpc_message(request)]), timeout=seconds, metadata=_metadata(self._access))
            try:
                async for answer in call:
                    yield _result(answer)
            finally:
                call.cancel()

    async def close(self) -> None:
        """See `GrpcTransport.close`."""
        current, self._current = self._current, None
        if current is not None and current.leave():
            await current.channel.close()

    async def _call(self, name: str, message: object, seconds: float) -> Any:
        metadata = _metadata(self._access)
        async with self._channel() as channel:
            return await getattr(channel, name)(message, timeout=seconds, metadata=metadata)

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[_Channel]:
        """The channel for one call."""
        import grpc.aio

        if _process.is_forked:
            raise forked(self._access.address.url, "gRPC for asyncio does not work in such a process")
        call, current = object(), self._current
        while current is None or not current.enter(call):
            current = self._current = _Channel(self._access, grpc.aio)
        is_lost = False
        try:
            yield current
        except BaseException as error:
            is_lost = _is_of_the_connection(error)
            raise
        finally:
            if is_lost and self._current is current:
                self._current = None
            if current.exit(call, leave=is_lost):
                await current.channel.close()


def _metadata(access: Access) -> list[tuple[str, str]]:
    return [*access.request_headers().items()]


def _as_json(answer: service_pb2.ModelConfigResponse) -> Mapping[str, Any]:
    from google.protobuf.json_format import MessageToDict

    found: Mapping[str, Any] = MessageToDict(answer, preserving_proto_field_name=True)
    return found


def _result(answer: service_pb2.ModelStreamInferResponse) -> InferResult:
    if answer.error_message:
        raise Refused("", answer.error_message)
    return GrpcResult(answer.infer_response)


def _is_of_the_connection(error: BaseException) -> bool:
    """Whether an error may be the connection's, so that the next request should make another."""
    import grpc

    lost = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN)
    return isinstance(error, TooLateError) or (isinstance(error, grpc.RpcError) and error.code() in lost)
