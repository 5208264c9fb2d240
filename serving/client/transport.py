"""How tritonclient is asked over gRPC and over HTTP: all that the two protocols do differently.

tritonclient is untyped. The protocols below are the types of what is used of it, and the only place that names its
modules and options.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from heatserve.serving.errors import ServingError
from heatserve.serving.pixels import Pixels

if TYPE_CHECKING:
    from tritonclient.grpc import service_pb2

RequestParameters = Mapping[str, int | float | str]
"""Parameters of a request by name."""


class InferResult(Protocol):
    """tritonclient's answer to one request."""

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        """The output tensor of that name; None where the answer has none."""
        ...


class BlockingTritonClient(Protocol):
    """`InferenceServerClient` of `tritonclient.grpc` and of `tritonclient.http`."""

    def get_model_config(self, model_name: str, **options: Any) -> Mapping[str, Any]: ...

    def infer(
        self, model_name: str, inputs: Sequence[object], *, outputs: Sequence[object], **options: Any
    ) -> InferResult: ...

    def close(self) -> object: ...


class AsyncioTritonClient(Protocol):
    """`InferenceServerClient` of `tritonclient.grpc.aio` and of `tritonclient.http.aio`."""

    async def get_model_config(self, model_name: str, **options: Any) -> Mapping[str, Any]: ...

    async def infer(
        self, model_name: str, inputs: Sequence[object], *, outputs: Sequence[object], **options: Any
    ) -> InferResult: ...

    async def close(self) -> object: ...


@dataclass(frozen=True)
class Transport:
    """One protocol to one server."""

    scheme: Literal["grpc", "http"]
    address: str
    """`host:port`."""
    timeout: float
    """Seconds that one request may take."""

    @property
    def url(self) -> str:
        """`grpc://host:port` or `http://host:port`."""
        return f"{self.scheme}://{self.address}"

    def open_blocking(self) -> BlockingTritonClient:
        """A blocking client of tritonclient; it connects with its first request.

        Raises:
            ServingError: tritonclient is not installed.
        """
        client: BlockingTritonClient = self._open("", "connection_timeout", "network_timeout")
        return client

    def open_asyncio(self) -> AsyncioTritonClient:
        """A client of tritonclient for the running event loop; it connects with its first request.

        Raises:
            ServingError: tritonclient is not installed.
        """
        client: AsyncioTritonClient = self._open(".aio", "conn_timeout")
        return client

    def _open(self, variant: str, *timeouts_of_http: str) -> Any:
        try:
            module = importlib.import_module(f"tritonclient.{self.scheme}{variant}")
        except ImportError as error:
            raise ServingError(f"the client needs more packages ({error}): pip install 'heatserve[client]'") from None
        options = {} if self.scheme == "grpc" else dict.fromkeys(timeouts_of_http, self.timeout)
        return module.InferenceServerClient(self.address, **options)

    @property
    def config_options(self) -> Mapping[str, Any]:
        """Options of `get_model_config`: only gRPC must be asked for JSON, which is all that HTTP speaks."""
        return {"as_json": True, **self.infer_options} if self.scheme == "grpc" else {}

    @property
    def infer_options(self) -> Mapping[str, Any]:
        """Options of `infer`: gRPC takes the timeout with every request, HTTP with the connection."""
        return {"client_timeout": self.timeout} if self.scheme == "grpc" else {}

    def inputs(self, images: Pixels) -> list[object]:
        """The request's input tensor `image`, from FP32 [N, C, H, W] or UINT8 [N, H, W, C]."""
        tensor = self._tensors.InferInput("image", images.shape, "UINT8" if images.dtype == np.uint8 else "FP32")
        tensor.set_data_from_numpy(images)
        return [tensor]

    def outputs(self, names: Sequence[str], *, class_count: int = 0) -> list[object]:
        """The output tensors that a request asks for.

        Args:
            names: the names of the tensors.
            class_count: where positive, ask for that many entries `value:index:class name` in place of the numbers.
        """
        return [self._tensors.InferRequestedOutput(name, class_count=class_count) for name in names]

    @property
    def _tensors(self) -> Any:
        return importlib.import_module(f"tritonclient.{self.scheme}")


def transport_to(url: str, *, timeout: float) -> Transport:
    """The transport that a URL names: `grpc://host:port`, `http://host:port`, or `host:port` for gRPC.

    Raises:
        ServingError: another protocol, or no port.
    """
    parts = re.fullmatch(r"(?:(grpc|http)://)?([^/]+:\d+)", url)
    if parts is None:
        raise ServingError(f"url: expected grpc://host:port, http://host:port or host:port; found {url!r}")
    return Transport("http" if parts[1] == "http" else "grpc", parts[2], timeout)


def grpc_message(
    model: str, images: Pixels, outputs: Sequence[str] = (), parameters: RequestParameters = MappingProxyType({})
) -> service_pb2.ModelInferRequest:
    """A request over gRPC.

    Args:
        model: the model's name on the server.
        images: FP32 [N, C, H, W] in [0,1], or UINT8 [N, H, W, C], as the model takes it.
        outputs: the names of those that are asked for; none: all.
        parameters: those of the request.
    """
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[images.tobytes()])
    message.inputs.add(name="image", datatype="UINT8" if images.dtype == np.uint8 else "FP32", shape=images.shape)
    for name in outputs:
        message.outputs.add(name=name)
    fields = {int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in parameters.items():
        setattr(message.parameters[name], fields[type(value)], value)
    return message
