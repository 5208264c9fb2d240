"""The digest of a JSON file, which the file itself states: an accident or careless editing is found when it is read.

It is no signature: whoever can write the file can compute it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST = "digest"
"""The field that states it, the last one of the file."""


def digest_of(content: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the content without its digest, as JSON with sorted keys, in ASCII and without whitespace."""
    return hashlib.sha256(json.dumps(_rest(content), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def with_digest(content: Mapping[str, Any]) -> bytes:
    """The file with this content, its digest computed again."""
    return (json.dumps({**_rest(content), DIGEST: digest_of(content)}, indent=2, ensure_ascii=False) + "\n").encode()


def read_json(file: bytes) -> Any:
    """The content of a JSON file, in which no object has two fields of one name: a reader may see the other one.

    Raises:
        ValueError: not JSON, or a field that is there twice.
        RecursionError: nested too deeply.
    """
    return json.loads(file, object_pairs_hook=_fields)


def _rest(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != DIGEST}


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError(f"expected each field once, got {', '.join(name for name, _ in pairs)}")
    return fields
