"""Valid requests between the others: a caller with connections of its own, whose answers must be right."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Any

import grpc
import numpy as np

from heatserve.benchmarks.fuzz.grpc_requests import INFER, valid_message
from heatserve.benchmarks.fuzz.http_requests import valid_binary
from heatserve.benchmarks.fuzz.reading import radii_of_grpc, radii_of_http
from heatserve.benchmarks.fuzz.subject import Subject
from heatserve.benchmarks.fuzz.target import Address, FuzzTarget
from heatserve.serving.client.messages import JSON_LENGTH

_SECONDS = 20.0
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))

RawCall = Callable[..., Any]


def channel_to(address: Address) -> grpc.Channel:
    """A channel with a connection of its own."""
    return grpc.insecure_channel(f"{address[0]}:{address[1]}", options=_OPTIONS)


def raw_call(channel: grpc.Channel, method: str) -> RawCall:
    """A call of a method whose messages are bytes."""
    call: RawCall = channel.unary_unary(method)
    return call


class ValidCaller:
    """Asks what is valid, over both protocols."""

    def __init__(self, target: FuzzTarget, subject: Subject, seed: int) -> None:
        """Connects when it first asks.

        Args:
            target: the server.
            subject: what is asked about.
            seed: decides which images.
        """
        self._target = target
        self._subject = subject
        self._random = Random(seed)
        self._channel = channel_to(target.grpc) if target.grpc else None
        self._connection = http.client.HTTPConnection(*target.http, timeout=_SECONDS) if target.http else None

    def __enter__(self) -> ValidCaller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._channel:
            self._channel.close()
        if self._connection:
            self._connection.close()

    def problem(self, protocol: str) -> str | None:
        """What is wrong with the answer to a valid request; None: nothing, or the server has no such protocol."""
        index = self._random.randrange(len(self._subject.images))
        images = self._subject.images[index : index + 1]
        if protocol == "grpc":
            return self._over_grpc(images) if self._channel else None
        return self._over_http(images) if self._connection else None

    def _over_grpc(self, images: Any) -> str | None:
        assert self._channel is not None
        message = valid_message(self._subject, images).SerializeToString()
        try:
            radii = radii_of_grpc(raw_call(self._channel, INFER)(message, timeout=_SECONDS, wait_for_ready=True))
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return self._wrong(radii, images)

    def _over_http(self, images: Any) -> str | None:
        assert self._connection is not None
        message = valid_binary(self._subject, images)
        problem = "no answer"
        for _ in range(2):  # the server may have closed an idle connection
            try:
                headers = dict(message.headers)
                self._connection.request("POST", message.target, message.body, headers)
                response = self._connection.getresponse()
                body = response.read()
                if response.status != http.client.OK:
                    return f"status {response.status}: {body[:200]!r}"
                length = response.headers.get(JSON_LENGTH)
                return self._wrong(radii_of_http(body, int(length) if length else None), images)
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"
                with suppress(OSError):
                    self._connection.close()
        return problem

    def _wrong(self, radii: Any, images: Any) -> str | None:
        if not np.any(radii > 0):
            return f"radius {radii.tolist()} where the graph answers a positive one"
        return self._subject.problem(radii, images)
