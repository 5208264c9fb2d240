"""Answers of the front that are not those of a model: each says what was expected, and what came."""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

JSON = b"application/json"
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class FrontAnswer:
    """A response: its status, its body, and headers beside those that each response has."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Mapping[bytes, bytes] = field(default_factory=dict)


class Refusal(Exception):
    """A request that is not answered as it was meant.

    Attributes:
        status: of HTTP.
        message: what was expected and what came, and what to do.
        reason: the limit or the rule that was broken, for metrics; one of a few words, and none that a caller chose.
        headers: of the response.
    """

    def __init__(self, status: int, message: str, *, reason: str, headers: Mapping[bytes, bytes] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.headers = dict(headers or {})

    @property
    def answer(self) -> FrontAnswer:
        """The response."""
        return FrontAnswer(self.status, error_body(self.message), headers=self.headers)


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
    return ascii(value)[:_SHOWN]
