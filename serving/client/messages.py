"""One request to a model and the answer to it, as gRPC and as HTTP have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heatserve.serving.errors import ServingError
from heatserve.serving.pixels import Pixels

if TYPE_CHECKING:
    from tritonclient.grpc import service_pb2

RequestParameters = Mapping[str, int | float | str]
"""Parameters of a request by name."""

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header over HTTP that says how many bytes of a body are JSON; the rest is tensors."""


@dataclass(frozen=True, eq=False)
class InferRequest:
    """A batch for a model, and what is asked about it."""

    model: str
    images: Pixels
    """FP32 [N, C, H, W] in [0,1], or UINT8 [N, H, W, C], as the model takes it."""
    outputs: Sequence[str] = ()
    """The names of those that are asked for; none: all."""
    parameters: RequestParameters = field(default_factory=dict)
    class_count: int = 0
    """Where positive, the outputs are so many entries `value:index:class name` in place of numbers."""
    request_id: str = ""
    """Comes back with the answer; empty: none."""

    @property
    def datatype(self) -> str:
        """Triton's name of the type of `images`."""
        return "UINT8" if self.images.dtype == np.uint8 else "FP32"


class InferResult(Protocol):
    """The answer to one request."""

    @property
    def request_id(self) -> str:
        """That of the request that it answers; empty where that had none."""
        ...

    @property
    def model_version(self) -> str:
        """The version of the model that answered; empty where the server does not say."""
        ...

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        """The output tensor of that name; None where the answer has none."""
        ...


def grpc_message(request: InferRequest) -> service_pb2.ModelInferRequest:
    """A request over gRPC."""
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(
        model_name=request.model, raw_input_contents=[request.images.tobytes()], id=request.request_id
    )
    message.inputs.add(name="image", datatype=request.datatype, shape=request.images.shape)
    for name in request.outputs:
        output = message.outputs.add(name=name)
        if request.class_count:
            output.parameters["classification"].int64_param = request.class_count
    fields = {int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in request.parameters.items():
        setattr(message.parameters[name], fields[type(value)], value)
    return message


@dataclass(frozen=True, eq=False)
class GrpcResult:
    """An answer over gRPC."""

    answer: service_pb2.ModelInferResponse

    @property
    def request_id(self) -> str:
        """See `InferResult`."""
        return str(self.answer.id)

    @property
    def model_version(self) -> str:
        """See `InferResult`."""
        return str(self.answer.model_version)

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        """See `InferResult`."""
        from tritonclient.grpc import InferResult as TritonResult

        value: NDArray[Any] | None = TritonResult(self.answer).as_numpy(name)
        return value


def http_message(request: InferRequest) -> tuple[bytes, int]:
    """The body of a request over HTTP, and how many bytes of it are JSON; the rest is the tensor."""
    output = {"binary_data": True, **({"classification": request.class_count} if request.class_count else {})}
    tensor = {
        "name": "image",
        "datatype": request.datatype,
        "shape": request.images.shape,
        "parameters": {"binary_data_size": request.images.nbytes},
    }
    said: dict[str, Any] = {"inputs": [tensor], "parameters": {**request.parameters}}
    if request.request_id:
        said["id"] = request.request_id
    if request.outputs:
        said["outputs"] = [{"name": name, "parameters": output} for name in request.outputs]
    else:
        said["parameters"]["binary_data_output"] = True
    header = json.dumps(said).encode()
    return header + request.images.tobytes(), len(header)


@dataclass(frozen=True, eq=False)
class HttpResult:
    """An answer over HTTP: what its JSON says of each output by name, and the bytes of those that are binary."""

    request_id: str
    model_version: str
    outputs: Mapping[str, Mapping[str, Any]]
    binary: Mapping[str, bytes]

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        """See `InferResult`.

        Raises:
            ValueError, TypeError, LookupError: the tensor cannot be read.
        """
        from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

        if name not in self.outputs:
            return None
        said = self.outputs[name]
        dtype = triton_to_np_dtype(said["datatype"])
        if dtype is None:
            raise ValueError(f"type {said['datatype']!r:.40}")
        if name not in self.binary:
            values = np.array(said["data"], dtype=dtype)
        elif said["datatype"] == "BYTES":
            values = deserialize_bytes_tensor(self.binary[name])
        else:
            values = np.frombuffer(self.binary[name], dtype=dtype)
        found: NDArray[Any] = values.reshape(said["shape"])
        return found


def read_http_result(body: bytes, json_bytes: str | None) -> HttpResult:
    """The answer in the body of a response of status 200.

    Args:
        body: all of it.
        json_bytes: the header `JSON_LENGTH`; None: all of the body is JSON.

    Raises:
        ServingError: it is not such an answer, for example that of something else than Triton.
    """
    try:
        length = len(body) if json_bytes is None else int(json_bytes)
        said, rest = json.loads(body[:length]), body[length:]
        outputs, binary, start = {}, {}, 0
        for output in said.get("outputs", ()):
            outputs[str(output["name"])] = output
            size = output.get("parameters", {}).get("binary_data_size")
            if size is not None:
                binary[str(output["name"])] = rest[start : start + size]
                start += size
        return HttpResult(str(said.get("id", "")), str(said.get("model_version", "")), outputs, binary)
    except (ValueError, TypeError, LookupError, AttributeError):
        raise ServingError(
            f"expected the outputs of a model from the server, found {body[:80]!r}; the address may be that of another "
            "service"
        ) from None
