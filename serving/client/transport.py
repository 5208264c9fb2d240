"""The two protocols in which a server is asked, blocking or for asyncio: what they have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, Protocol

from heatserve.serving.client.access import Access
from heatserve.serving.client.messages import InferRequest, InferResult
from heatserve.serving.errors import ServingError


class Transport(Protocol):
    """Asks one server; every request has its own time, in seconds. For any number of threads."""

    def config(self, model: str, version: str = "", *, seconds: float) -> Mapping[str, Any]: ...

    def infer(self, request: InferRequest, *, seconds: float) -> InferResult: ...

    def stream(self, request: InferRequest, *, seconds: float) -> Generator[InferResult, None, None]: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """`Transport` for the tasks of one event loop."""

    async def config(self, model: str, version: str = "", *, seconds: float) -> Mapping[str, Any]: ...

    async def infer(self, request: InferRequest, *, seconds: float) -> InferResult: ...

    def stream(self, request: InferRequest, *, seconds: float) -> AsyncGenerator[InferResult, None]: ...

    async def close(self) -> None: ...


def open_transport(access: Access) -> Transport:
    """The transport to a server; it connects with its first request.

    Raises:
        ServingError: a package is not installed, or a certificate cannot be read.
    """
    try:
        if access.address.is_http:
            from heatserve.serving.client.over_http import HttpTransport

            return HttpTransport(access)
        import grpc  # noqa: F401
        import tritonclient.grpc.service_pb2  # noqa: F401

        from heatserve.serving.client.over_grpc import GrpcTransport

        return GrpcTransport(access)
    except ImportError as error:
        raise _missing(error) from None


def open_async_transport(access: Access) -> AsyncTransport:
    """See `open_transport`.

    Raises:
        ServingError: see `open_transport`.
    """
    try:
        if access.address.is_http:
            from heatserve.serving.client.over_aiohttp import AsyncHttpTransport

            return AsyncHttpTransport(access)
        import grpc.aio  # noqa: F401
        import tritonclient.grpc.service_pb2  # noqa: F401

        from heatserve.serving.client.over_grpc import AsyncGrpcTransport

        return AsyncGrpcTransport(access)
    except ImportError as error:
        raise _missing(error) from None


def _missing(error: ImportError) -> ServingError:
    return ServingError(f"the client needs more packages ({error}): pip install 'heatserve[client]'")
