"""Requests over HTTP: valid ones, with JSON and with binary tensors, and mutations of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from heatserve.benchmarks.fuzz.mutate import mutate_bytes, mutate_json
from heatserve.benchmarks.fuzz.reading import images_of_http
from heatserve.benchmarks.fuzz.subject import CERTIFIED, Subject
from heatserve.benchmarks.wire import HttpMessage
from heatserve.certification.radius import Float32Array
from heatserve.serving.client.http_answers import infer_path
from heatserve.serving.client.messages import JSON_LENGTH

_SPECIAL = ("0", "-1", "1", "99999999999", "18446744073709551616", "0x10", "1e3", " 5", "5 ", "5, 5", "+7", "", "a")
_METHODS = ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW", "post", "P" * 5000)
_HEADERS = (
    *(("Content-Length", value) for value in _SPECIAL),
    *((JSON_LENGTH, value) for value in _SPECIAL),
    *(("Transfer-Encoding", value) for value in ("chunked", "gzip", "identity", "chunked, chunked", "xchunked")),
    *(("Content-Encoding", value) for value in ("gzip", "deflate", "br", "identity")),
    *(("Expect", value) for value in ("100-continue", "200-ok")),
    *(("Connection", value) for value in ("close", "upgrade", "keep-alive, Content-Length")),
    *(("Upgrade", value) for value in ("h2c", "websocket")),
    *(("Content-Type", value) for value in ("application/octet-stream", "text/xml", "a" * 3000)),
    *(("X-Request-Id", value) for value in ("a" * 300, "a\tb", "é", '"', "%0d%0aX: y")),
    *(("traceparent", value) for value in ("00-0-0-0", "00-" + "f" * 32 + "-" + "f" * 16 + "-01", "\u2028")),
    *(("Host", value) for value in ("", "a b", "evil", "x" * 9000)),
    *(("Authorization", value) for value in ("Bearer ", "Basic !!", "Bearer " + "a" * 9000)),
    ("X-Long", "a" * 70_000),
    (" Leading", "space"),
    ("Na me", "value"),
    ("X-Null", "a\0b"),
    ("X-Fold", "a\r\n b"),
)
_TARGETS = (
    *("/v2/models/{}/versions/1/infer", "/v2/models/{}/versions/99999999999999999999/infer", "/v2/models/{}"),
    *("/v2/models/{}/infer?x=1", "/v2/models/{}/infer/", "//v2/models/{}/infer", "/v2/models/{}/../{}/infer"),
    *("/v2/models/%2e%2e/infer", "/v2/models/{}%00/infer", "/v2/models//infer", "/v2/models/é/infer", "*", ""),
    *("/v2/repository/models/{}/unload", "/v2/repository/index", "/v2/systemsharedmemory/status", "/v2/logging"),
    *("/v2/models/{}/trace/setting", "/v2/models/{}/generate", "/v2/models/{}/generate_stream", "/v2/models/stats"),
    *(
        "http://localhost/v2/models/{}/infer",
        "/v2/health/live",
        "/metrics",
        "/" + "a" * 70_000,
        "/%",
        "/v2/models/{}/config",
    ),
)


@dataclass(frozen=True)
class MutatedHttp:
    """A mutated request as bytes, with the images that an answer may be about."""

    content: bytes
    images: Float32Array | None


def valid_json(subject: Subject, images: Float32Array) -> HttpMessage:
    """A valid request with the pixels as JSON."""
    return HttpMessage(infer_path(subject.name), json.dumps(_document(images)).encode())


def valid_binary(subject: Subject, images: Float32Array) -> HttpMessage:
    """A valid request with the pixels behind the JSON."""
    return _binary(subject, json.dumps(_binary_document(images)).encode(), images.tobytes())


def mutated_json(subject: Subject, random: Random) -> MutatedHttp:
    """A mutation of a valid request with JSON."""
    images = _some(subject, random)
    message = valid_json(subject, images)
    match random.randrange(8):
        case 0:
            return MutatedHttp(_head(message, random), images)
        case 1:
            return MutatedHttp(_mutated_head(message, random), images)
        case 2:
            body = mutate_bytes(message.body, random)
        case _:
            body = mutate_json(_document(images), random)
    return _with_body(subject, replace(message, body=body), None, random)


def mutated_binary(subject: Subject, random: Random) -> MutatedHttp:
    """A mutation of a valid request with binary tensors."""
    images = _some(subject, random)
    document, pixels = _binary_document(images), images.tobytes()
    header = json.dumps(document).encode()
    match random.randrange(8):
        case 0:
            return MutatedHttp(_head(_binary(subject, header, pixels), random), images)
        case 1:
            return MutatedHttp(_mutated_head(_binary(subject, header, pixels), random), images)
        case 2 | 3 | 4:
            header = mutate_json(document, random)
        case 5 | 6:
            pixels = mutate_bytes(pixels, random)
        case _:
            header, pixels = mutate_bytes(header, random), mutate_bytes(pixels, random)
    return _with_body(subject, _binary(subject, header, pixels), len(header), random)


def _with_body(subject: Subject, message: HttpMessage, json_length: int | None, random: Random) -> MutatedHttp:
    if random.random() < 0.1:
        message = replace(message, chunks=random.choice((1, 7, 1000, 10**9)))
    return MutatedHttp(message.encoded(), images_of_http(message.body, json_length, subject.shape))


def _head(message: HttpMessage, random: Random) -> bytes:
    """The request with another first line or other headers, and the same body."""
    name = message.target.split("/")[3]
    match random.randrange(4):
        case 0:
            message = replace(message, method=random.choice(_METHODS))
        case 1:
            message = replace(message, target=random.choice(_TARGETS).replace("{}", name))
        case 2:
            message = replace(message, length=random.choice((None, *_SPECIAL)))
        case _:
            extra = tuple(random.choice(_HEADERS) for _ in range(random.choice((1, 1, 2, 200))))
            message = replace(message, headers=(*message.headers, *extra))
    return message.encoded()


def _mutated_head(message: HttpMessage, random: Random) -> bytes:
    """The request with other bytes before the body."""
    head, end, body = message.encoded().partition(b"\r\n\r\n")
    return mutate_bytes(head + end, random) + body


def _some(subject: Subject, random: Random) -> Float32Array:
    count = random.choice((1, 1, 1, 2, 5))
    return subject.images[[random.randrange(len(subject.images)) for _ in range(count)]]


def _document(images: Float32Array) -> dict[str, Any]:
    return {
        "id": "a",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [*images.shape], "data": images.ravel().tolist()}],
        "outputs": [{"name": CERTIFIED}, {"name": "label"}],
    }


def _binary_document(images: Float32Array) -> dict[str, Any]:
    tensor = {"name": "image", "datatype": "FP32", "shape": [*images.shape]}
    return {
        "inputs": [{**tensor, "parameters": {"binary_data_size": images.nbytes}}],
        "outputs": [{"name": CERTIFIED, "parameters": {"binary_data": True}}],
    }


def _binary(subject: Subject, header: bytes, pixels: bytes) -> HttpMessage:
    return HttpMessage(infer_path(subject.name), header + pixels, headers=((JSON_LENGTH, str(len(header))),))
