"""Requests over gRPC: valid ones, and mutations of their fields and of their bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from tritonclient.grpc import service_pb2

from heatserve.benchmarks.fuzz.mutate import mutate_bytes
from heatserve.benchmarks.fuzz.reading import images_of_grpc
from heatserve.benchmarks.fuzz.subject import CERTIFIED, Subject
from heatserve.certification.radius import Float32Array

SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{SERVICE}ModelInfer"
_METHODS = (
    *("ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ServerMetadata", "ServerLive", "ModelStatistics"),
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryRegister"),
    *("CudaSharedMemoryRegister", "TraceSetting", "LogSettings", "Nothing"),
)
_NAMES = ("", "image", "label", "IMAGE", "a" * 20_000, "\0", "../x", "é", "certified_radius", "1")
_DATATYPES = ("", "FP32", "FP16", "FP64", "INT8", "UINT8", "BYTES", "BF16", "BOOL", "fp32", "X" * 500)
_SIZES = (-(2**63), -(2**32), -1, 0, 1, 2, 7, 8, 64, 65, 2**31, 2**32, 2**32 + 1, 2**62, 2**63 - 1)
_PIXELS = (np.nan, np.inf, -np.inf, -0.001, 1.001, 1e30, -1e-45, 255.0, np.float32(1) + np.float32(2**-23))
_PARAMETERS = (
    *("sequence_id", "sequence_start", "priority", "timeout", "binary_data_output", "headers", "classification"),
    *("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "binary_data_size", "x" * 9000, "é"),
)

_Request = service_pb2.ModelInferRequest


@dataclass(frozen=True)
class MutatedGrpc:
    """A mutated message, with the images that an answer may be about."""

    method: str
    message: bytes
    images: Float32Array | None
    metadata: tuple[tuple[str, str | bytes], ...] = ()


def valid_message(subject: Subject, images: Float32Array) -> service_pb2.ModelInferRequest:
    """A valid request."""
    request = _Request(model_name=subject.name, raw_input_contents=[images.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    request.outputs.add(name=CERTIFIED)
    return request


def mutated_message(subject: Subject, random: Random) -> MutatedGrpc:
    """A mutation of a valid request."""
    count = random.choice((1, 1, 1, 2, 5))
    images = subject.images[[random.randrange(len(subject.images)) for _ in range(count)]]
    request = valid_message(subject, images)
    method = INFER
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    for _ in range(random.choice((1, 1, 2, 3))):
        random.choice(_FIELD_MUTATIONS)(request, images, random)
    message = request.SerializeToString()
    match random.randrange(10):
        case 0 | 1 | 2:
            message = mutate_bytes(valid_message(subject, images).SerializeToString(), random)
        case 3:
            method = SERVICE + random.choice(_METHODS)
        case 4:
            metadata = ((random.choice(("x-a", "te", "grpc-timeout", "traceparent", "authorization")), _value(random)),)
        case _:
            pass
    held = images_of_grpc(message, subject.name, subject.shape) if method == INFER else None
    return MutatedGrpc(method, message, held, metadata)


def _value(random: Random) -> str:
    return random.choice(("", "a", "1n", "-1S", "99999999H", "x" * 7000, "a" * 100_000))


def _shape(request: service_pb2.ModelInferRequest, _: Float32Array, random: Random) -> None:
    shape = list(request.inputs[0].shape) if request.inputs else [1]
    match random.randrange(4):
        case 0:
            shape.insert(random.randrange(len(shape) + 1), random.choice(_SIZES))
        case 1 if shape:
            del shape[random.randrange(len(shape))]
        case 2:
            shape = [random.choice(_SIZES) for _ in range(random.choice((0, 1, 4, 4, 4, 3000)))]
        case _ if shape:
            shape[random.randrange(len(shape))] = random.choice(_SIZES)
    for tensor in request.inputs[:1]:
        tensor.shape[:] = shape


def _tensors(request: service_pb2.ModelInferRequest, _: Float32Array, random: Random) -> None:
    match random.randrange(4):
        case 0:
            request.inputs.add().CopyFrom(request.inputs[0] if request.inputs else _Request.InferInputTensor())
        case 1:
            del request.inputs[:]
        case 2:
            for tensor in request.inputs:
                tensor.name = random.choice(_NAMES)
        case _:
            for tensor in request.inputs:
                tensor.datatype = random.choice(_DATATYPES)


def _raw(request: service_pb2.ModelInferRequest, images: Float32Array, random: Random) -> None:
    pixels = images.copy()
    pixels.flat[random.randrange(pixels.size)] = random.choice(_PIXELS)
    raw = pixels.tobytes()
    choice = random.choice(([raw], [raw], [raw], [raw, raw], [], [b""], [raw[:-1]], [raw * 70], [b"\0" * 3_000_000]))
    request.raw_input_contents[:] = choice


def _typed(request: service_pb2.ModelInferRequest, images: Float32Array, random: Random) -> None:
    if random.random() < 0.7:
        del request.raw_input_contents[:]
    for tensor in request.inputs[:1]:
        tensor.contents.fp32_contents.extend(images.ravel().tolist()[: random.choice((None, None, 3, -1))])
        if random.random() < 0.3:
            tensor.contents.bytes_contents.append(b"a" * random.choice((0, 1, 5000)))
        if random.random() < 0.3:
            tensor.contents.int64_contents.extend([1, -1, 2**62])


def _names(request: service_pb2.ModelInferRequest, _: Float32Array, random: Random) -> None:
    match random.randrange(3):
        case 0:
            request.model_name = random.choice((*_NAMES, request.model_name + "_confirm"))
        case 1:
            request.model_version = random.choice(("", "1", "0", "-1", "99999999999999999999", "a", "\0"))
        case _:
            request.id = random.choice(_NAMES)


def _outputs(request: service_pb2.ModelInferRequest, _: Float32Array, random: Random) -> None:
    match random.randrange(3):
        case 0:
            request.outputs.add(name=random.choice(_NAMES))
        case 1:
            request.outputs.extend([request.outputs[0]] * random.choice((1, 2000)) if request.outputs else [])
        case _:
            for output in request.outputs:
                output.parameters["classification"].int64_param = random.choice(_SIZES)


def _parameters(request: service_pb2.ModelInferRequest, _: Float32Array, random: Random) -> None:
    places = [request.parameters, *(tensor.parameters for tensor in (*request.inputs, *request.outputs))]
    value = random.choice(places)[random.choice(_PARAMETERS)]
    match random.randrange(4):
        case 0:
            value.int64_param = random.choice(_SIZES)
        case 1:
            value.string_param = random.choice(_NAMES)
        case 2:
            value.bool_param = True
        case _:
            value.double_param = random.choice(_PIXELS)


_FIELD_MUTATIONS: tuple[Callable[[service_pb2.ModelInferRequest, Float32Array, Random], None], ...] = (
    *(_shape, _tensors, _raw, _raw, _typed, _names, _outputs, _parameters),
)
