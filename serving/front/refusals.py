"""Answers of the front that are not those of a model: each says what was expected, and what came."""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

JSON = b"application/json"
_SHOWN, _SHOWN_ITEMS, _SHOWN_LEVELS = 80, 27, 3
_MOST_DETAILS = 400  # characters, of which JSON makes up to six bytes each


@dataclass(frozen=True, slots=True)
class GrpcFailure:
    """How a call to Triton failed, for the operator: callers get no more of it than `Refusal.message` says.

    Attributes:
        status: the name of gRPC's status, such as UNAVAILABLE; UsageError: the channel was closed before the call.
        details: gRPC's text, or Triton's.
    """

    status: str
    details: str

    def fields(self) -> dict[str, Any]:
        """The fields of it in the log: ASCII, whose length leaves room for all other fields of a line."""
        details = self.details[:_MOST_DETAILS].encode("ascii", "backslashreplace").decode()
        return {"grpc_status": self.status, "grpc_details": details[:_MOST_DETAILS]}


@dataclass(frozen=True, slots=True)
class FrontAnswer:
    """A response: its status, its body, and headers beside those that each response has.

    Attributes:
        failure: why Triton gave no other answer; it is logged, and never sent.
    """

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    failure: GrpcFailure | None = None


class Refusal(Exception):
    """A request that is not answered as it was meant.

    Attributes:
        status: of HTTP.
        message: what was expected and what came, and what to do.
        reason: the limit or the rule that was broken, for metrics; one of a few words, and none that a caller chose.
        headers: of the response.
        failure: how Triton failed, if it did; for the log alone.
    """

    def __init__(self, status: int, message: str, *, reason: str, headers: Mapping[bytes, bytes] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.headers = dict(headers or {})
        self.failure: GrpcFailure | None = None

    def after(self, failure: GrpcFailure | None) -> Refusal:
        """This refusal, with the failure of Triton that it tells of."""
        self.failure = failure
        return self

    @property
    def answer(self) -> FrontAnswer:
        """The response."""
        return FrontAnswer(self.status, error_body(self.message), headers=self.headers, failure=self.failure)


def invalid(message: str) -> Refusal:
    """The refusal of a request that says something impossible."""
    return Refusal(http.HTTPStatus.BAD_REQUEST, message, reason="invalid")


def unavailable(message: str, *, seconds: int = 1) -> Refusal:
    """The refusal of a request that the same server will answer soon; `ask again` has clients do so."""
    return Refusal(
        http.HTTPStatus.SERVICE_UNAVAILABLE,
        f"{message}; ask again in {seconds} s",
        reason="unavailable",
        headers={b"retry-after": b"%d" % seconds},
    )


def error_body(message: str) -> bytes:
    """The JSON of an error."""
    return orjson.dumps({"error": message})


def shown(value: object) -> str:
    """Something of a caller's as an error may repeat it: short, on one line, without what a terminal would obey."""
    return ascii(_beginning(value, _SHOWN_LEVELS))[:_SHOWN]


def _beginning(value: object, levels: int) -> object:
    """As much of JSON as can be shown: all of a body would take a second to write out, or be too deep for it."""
    if isinstance(value, list | dict) and not levels:
        return "..."
    if isinstance(value, list):
        return [_beginning(item, levels - 1) for item in value[:_SHOWN_ITEMS]]
    if isinstance(value, dict):
        return {name[:_SHOWN]: _beginning(item, levels - 1) for name, item in islice(value.items(), _SHOWN_ITEMS)}
    return value[:_SHOWN] if isinstance(value, str) else value
