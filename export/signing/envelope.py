"""The file of a signature: an in-toto Statement in a DSSE envelope, in a Sigstore bundle, as `model-signing` writes it.

https://github.com/in-toto/attestation, https://github.com/secure-systems-lab/dsse and
https://docs.sigstore.dev/about/bundle. That library takes more than it writes: other predicates, paths to leave out,
several signatures, of which it looks at the first. Here is only accepted what `sign_version` writes.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatserve.certification.errors import HeatserveError
from heatserve.export.digest import read_json

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_SERIALIZATION = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
_LARGEST_FILE = 2**20  # bytes


class UntrustedError(HeatserveError):
    """A model version that no trusted key has signed as it is."""


@dataclass(frozen=True)
class Envelope:
    """What a signature's file states; nothing of it is verified."""

    content: bytes
    """The file."""
    key: str
    """Fingerprint of the key that it names."""
    digests: Mapping[str, str]
    """Hex SHA-256 of each file that it is about, by its path `NAME/VERSION/FILE` or `NAME/settings.json`."""

    @property
    def version(self) -> str:
        """`NAME/VERSION` of what was signed."""
        return next((path.rpartition("/")[0] for path in self.digests if path.count("/") > 1), "nothing")


def read_envelope(path: Path) -> Envelope:
    """Read the file of a signature.

    Raises:
        UntrustedError: there is none, or it is none that `heatserve sign` wrote.
    """
    content = _read(path)
    try:
        return _parse(content)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)
        raise UntrustedError(f"{path}: expected a signature of `heatserve sign`, got another file: {why}") from None


def _read(path: Path) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe would wait for its writer
            status = os.fstat(file.fileno())
            content = file.read(_LARGEST_FILE + 1) if stat.S_ISREG(status.st_mode) else b""
    except FileNotFoundError:
        raise UntrustedError(
            f"{path}: expected the signature of a trusted key, found none; sign the version with `heatserve sign`"
        ) from None
    except OSError as error:
        raise UntrustedError(f"{path}: expected a signature, but it cannot be read: {error.strerror}") from None
    if not 0 < len(content) <= _LARGEST_FILE:
        raise UntrustedError(f"{path}: expected a regular file of 1 to {_LARGEST_FILE:,} bytes, got another")
    return content


def _parse(content: bytes) -> Envelope:
    bundle = read_json(content)
    envelope = bundle["dsseEnvelope"]
    (signature,) = envelope["signatures"]
    statement = read_json(base64.b64decode(envelope["payload"], validate=True))
    predicate = statement["predicate"]
    (_subject,) = statement["subject"]
    _expect("mediaType", bundle["mediaType"], _MEDIA_TYPE)
    _expect("payloadType", envelope["payloadType"], _PAYLOAD_TYPE)
    _expect("_type", statement["_type"], _STATEMENT_TYPE)
    _expect("predicateType", statement["predicateType"], _PREDICATE_TYPE)
    _expect("serialization", predicate["serialization"], _SERIALIZATION)
    digests = {_text(resource["name"]): _text(resource["digest"]) for resource in predicate["resources"]}
    _expect("resources", [len(predicate["resources"])], [len(digests)])
    _expect("signatures", set(signature) >= {"sig"}, True)
    return Envelope(content, _text(bundle["verificationMaterial"]["publicKey"]["hint"]), digests)


def _expect(name: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ValueError(f"{name}: expected {expected!r}, got {found!r:.200}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r:.200}")
    return value
