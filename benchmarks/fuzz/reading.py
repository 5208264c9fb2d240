"""Reads the images of a request, and the radii of an answer, apart from all code that serves them.

A request that cannot be read to the letter holds no images: an answer to it with a positive radius is a fault.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from heatserve.benchmarks.fuzz.subject import CERTIFIED
from heatserve.certification.radius import Float32Array

_INPUT = "image"


def images_of_http(body: bytes, json_length: int | None, shape: tuple[int, ...]) -> Float32Array | None:
    """The images [N, C, H, W] of the body of an HTTP request.

    Args:
        body: all of it.
        json_length: `Inference-Header-Content-Length`; None: it has none.
        shape: of one image.
    """
    try:
        request = json.loads(body if json_length is None else body[:json_length])
        (tensor,) = request["inputs"]
        if (tensor["name"], tensor["datatype"]) != (_INPUT, "FP32"):
            return None
        if "data" in tensor:
            with np.errstate(over="ignore"):
                values = np.array(tensor["data"], dtype=np.float64).astype(np.float32).ravel()
        else:
            raw = b"" if json_length is None else body[json_length:]
            if tensor["parameters"]["binary_data_size"] != len(raw):
                return None
            values = np.frombuffer(raw, np.float32)
        return _shaped(values, tensor["shape"], shape)
    except (LookupError, TypeError, ValueError, RecursionError, OverflowError):
        return None


def images_of_grpc(message: bytes, model: str, shape: tuple[int, ...]) -> Float32Array | None:
    """The images [N, C, H, W] of a serialised `ModelInferRequest`.

    Raw contents belong to the inputs in their order; Triton leaves those beyond the last input unread.
    """
    try:
        request = service_pb2.ModelInferRequest.FromString(message)
        (tensor,) = request.inputs
    except (DecodeError, ValueError):
        return None
    if (request.model_name, tensor.name, tensor.datatype) != (model, _INPUT, "FP32"):
        return None
    if request.raw_input_contents:
        if len(request.raw_input_contents[0]) % 4:
            return None
        values = np.frombuffer(request.raw_input_contents[0], np.float32)
    else:
        values = np.array(tensor.contents.fp32_contents, np.float32)
    return _shaped(values, list(tensor.shape), shape)


def _shaped(values: NDArray[np.float32], stated: Any, shape: tuple[int, ...]) -> Float32Array | None:
    if not isinstance(stated, list) or not all(type(size) is int for size in stated):
        return None
    if tuple(stated[1:]) != shape or stated[0] * math.prod(shape) != values.size:
        return None
    return values.reshape(stated)


def radii_of_http(body: bytes, json_length: int | None) -> NDArray[np.float32]:
    """The radii of an answer over HTTP; none: it has no such output.

    Raises:
        ValueError: it is no answer of the protocol.
    """
    try:
        answer = json.loads(body if json_length is None else body[:json_length])
        rest = b"" if json_length is None else body[json_length:]
        for output in answer["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size")
            if output["name"] == CERTIFIED and output["datatype"] == "FP32":
                data = output["data"] if size is None else np.frombuffer(rest[:size], np.float32)
                return np.asarray(data, np.float32).ravel()
            rest = rest[size or 0 :]
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return np.zeros(0, np.float32)


def radii_of_grpc(message: bytes) -> NDArray[np.float32]:
    """The radii of a serialised `ModelInferResponse`; none: it has no such output."""
    answer = service_pb2.ModelInferResponse.FromString(message)
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=False):
        if output.name == CERTIFIED and output.datatype == "FP32":
            return np.frombuffer(raw, np.float32)
    return np.zeros(0, np.float32)
