"""Requests of a server to itself, which ask whether a model answers: they are told apart, and are not counted.

A request is known by its id, which begins with a secret that a server and its processes share, so that no caller
passes for one.
"""

from __future__ import annotations

import os
import secrets

_VARIABLE = "HEATSERVE_PROBE"
_PREFIX = os.environ.get(_VARIABLE) or f"probe-{secrets.token_hex(8)}-"


def probe_environment() -> dict[str, str]:
    """What the processes of a server need to know its probes, as environment variables."""
    return {_VARIABLE: _PREFIX}


def probe_id() -> str:
    """A new id for a request of a server to itself."""
    return _PREFIX + secrets.token_hex(4)


def is_probe(request_id: str) -> bool:
    """Whether a request came from the server that this process belongs to."""
    return request_id.startswith(_PREFIX)
