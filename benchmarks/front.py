"""What the front costs: one image over gRPC and through the front, as bytes and as JSON, interleaved in one run.

Without a client library on either side: a message of gRPC that is made once, and the bytes of an HTTP request on a
connection that stays open. Beside them are Triton's own HTTP, which no stranger reaches, and heatserve's client, which
also checks pixels and reads answers.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from heatserve.benchmarks.classifiers import CLASSIFIERS, publish_uncalibrated, random_classifier
from heatserve.benchmarks.load.server_use import memory_of
from heatserve.benchmarks.records.front import Above, FrontLatency
from heatserve.benchmarks.records.speed import Milliseconds
from heatserve.benchmarks.wire import HttpMessage
from heatserve.certification.progress import Progress, unseen
from heatserve.certification.radius import Float32Array
from heatserve.export.runtime.timing import Times, Way, interleave, quantiles
from heatserve.serving.client.client import Client
from heatserve.serving.client.http_answers import infer_path
from heatserve.serving.client.messages import JSON_LENGTH, InferRequest, grpc_message, http_message
from heatserve.serving.errors import ServingError
from heatserve.serving.front.options import FrontOptions
from heatserve.serving.front.process import Front, FrontSockets
from heatserve.serving.front.state import state_of_triton
from heatserve.serving.observed.logs import log_destination
from heatserve.serving.triton.endpoints import FREE_PORTS
from heatserve.serving.triton.processes import process_of
from heatserve.serving.triton.server import TritonServer

MOST_ABOVE = 0.5
"""Milliseconds at p50 that a binary request of one image may take above gRPC: the target."""
GRPC, BYTES, JSON, TRITON = "gRPC", "front, bytes", "front, JSON", "Triton's HTTP, bytes"
CLIENT_GRPC, CLIENT_HTTP = "client, gRPC", "client, front"

_MODEL = "front"
_CPU_REQUESTS = 500


def measure_front(name: str, *, rounds: int, seed: int, progress: Progress = unseen) -> FrontLatency:
    """Milliseconds of a request for one image, each way, and what the front adds to gRPC.

    Args:
        name: the classifier's name in `CLASSIFIERS`.
        rounds: counted blocks each way (`heatserve.export.runtime.timing`).
        seed: decides the weights, the image and the order of the ways.
        progress: shows the rounds.
    """
    shape = CLASSIFIERS[name]
    image = np.random.default_rng(seed).random((1, *shape.input_shape), dtype=np.float32)
    with ExitStack() as stack:
        repository = Path(stack.enter_context(TemporaryDirectory(prefix="heatserve-bench-")))
        publish_uncalibrated(random_classifier(shape, seed), shape, repository, _MODEL)
        server = stack.enter_context(TritonServer(repository, endpoints=FREE_PORTS))
        front, port = stack.enter_context(_front(server))
        ways = stack.enter_context(_ways(server, port, image))
        times = interleave(ways, rounds=rounds, seed=seed, progress=progress, description=name)
        cpu = _cpu_microseconds(front, ways[BYTES])
        megabytes, _ = memory_of(front.pid)
    pairs = ((BYTES, GRPC), (JSON, GRPC), (TRITON, GRPC), (CLIENT_HTTP, CLIENT_GRPC))
    return FrontLatency(
        requests={way: sum(map(len, blocks)) for way, blocks in times.items()},
        milliseconds={way: Milliseconds(**quantiles(blocks)) for way, blocks in times.items()},
        above={f"{way} − {base}": _above(times[way], times[base]) for way, base in pairs},
        cpu_microseconds=cpu,
        megabytes=megabytes,
    )


@contextmanager
def _front(server: TritonServer) -> Iterator[tuple[Front, int]]:
    """A front before a Triton, as `heatserve serve` runs it: with a log of each request."""
    sockets = FrontSockets.bound("127.0.0.1", http=0)
    with ExitStack() as stack:
        stack.callback(sockets.close)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="heatserve-bench-")))
        events = stack.enter_context(log_destination(str(folder / "events")))
        log = stack.enter_context((folder / "log").open("wb"))
        front = Front(FrontOptions(), sockets, folder=folder, log=log, events=events)
        stack.callback(front.kill)
        front.start(state_of_triton(server))
        yield front, sockets.http_port


@contextmanager
def _ways(server: TritonServer, port: int, image: Float32Array) -> Iterator[dict[str, Way]]:
    import grpc
    from tritonclient.grpc import service_pb2

    request = InferRequest(_MODEL, image)
    message = grpc_message(request)
    body, json_bytes = http_message(request)
    tensor = {"name": "image", "datatype": "FP32", "shape": image.shape, "data": image.ravel().tolist()}
    in_bytes = HttpMessage(infer_path(_MODEL), body, headers=((JSON_LENGTH, str(json_bytes)),)).encoded()
    in_json = HttpMessage(infer_path(_MODEL), json.dumps({"inputs": [tensor]}).encode()).encoded()
    with ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(server.endpoints.grpc_url.partition("://")[2]))
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        front = stack.enter_context(closing(_HttpCaller(port)))
        triton = stack.enter_context(closing(_HttpCaller(server.endpoints.http)))
        over_grpc, over_http = (
            stack.enter_context(Client(url, model=_MODEL))
            for url in (server.endpoints.grpc_url, f"http://127.0.0.1:{port}")
        )
        yield {
            GRPC: lambda: call(message),
            BYTES: lambda: front.ask(in_bytes),
            JSON: lambda: front.ask(in_json),
            TRITON: lambda: triton.ask(in_bytes),
            CLIENT_GRPC: lambda: over_grpc.predict(image),
            CLIENT_HTTP: lambda: over_http.predict(image),
        }


class _HttpCaller:
    """One connection to a server that speaks HTTP/1.1, for requests that are made already."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """The body of the answer.

        Raises:
            ServingError: its status is not 200.
        """
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(2**16)
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ServingError(f"expected an answer of status 200, got {head[:80]!r}: {body[:200]!r}")
        length = next(
            int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        while len(body) < length:
            body += self._socket.recv(2**16)
        return body

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _above(times: Times, base: Times) -> Above:
    found = [np.median(block) - np.median(other) for block, other in zip(times, base, strict=True)]
    return Above(**{f"p{q}": float(np.percentile(found, q)) for q in (25, 50, 75)})


def _cpu_microseconds(front: Front, ask: Callable[[], Any]) -> float:
    process = process_of(front.pid)
    before = process.look().seconds
    for _ in range(_CPU_REQUESTS):
        ask()
    time.sleep(0.1)  # its log is written by a thread
    return (process.look().seconds - before) / _CPU_REQUESTS * 1e6
