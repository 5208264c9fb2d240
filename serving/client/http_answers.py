"""Paths of Triton's protocol over HTTP, and what its answers are where they are not those of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import quote

from heatserve.serving.client.failures import Refused
from heatserve.serving.errors import ServingError

NO_PATH = "path: expected one of the Open Inference Protocol"
"""What our front says, with the status 404, of a path that it does not know; its port of metrics knows hardly any."""


def config_path(model: str, version: str = "") -> str:
    """Where the configuration of a model is, or that of one of its versions."""
    of_version = f"/versions/{quote(version, safe='')}" if version else ""
    return f"/v2/models/{quote(model, safe='')}{of_version}/config"


def infer_path(model: str) -> str:
    """Where a model is asked."""
    return f"/v2/models/{quote(model, safe='')}/infer"


def stream_path(model: str) -> str:
    """Where a model is asked that answers several times."""
    return f"/v2/models/{quote(model, safe='')}/generate_stream"


def config_of(body: bytes) -> Mapping[str, Any]:
    """A configuration in JSON.

    Raises:
        ServingError: it is none.
    """
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        answer = repr(body[:80]) if body else "an empty answer"
        raise ServingError(
            f"expected the configuration of a model from the server, found {answer}; the address may be that of "
            "another service, or of Triton's metrics"
        )
    return found


def refuse(status: int, headers: Mapping[str, str], body: bytes) -> NoReturn:
    """Raise what a response means whose status is not 200.

    Raises:
        Refused: always.
    """
    try:
        message = str(json.loads(body.removeprefix(b"data:"))["error"])  # a stream is refused in an event
    except (ValueError, LookupError, TypeError):
        message = None
    if message and message.startswith(NO_PATH):
        message = None  # it has no models at this path, as any other service
    raise Refused(str(status), message, retry_after=headers.get("Retry-After"), location=headers.get("Location"))
