"""The tokens that let a request in: a file, one a line, read again when it changes.

Where it cannot be used any more, nobody is let in: a token that was to be withdrawn is not one of those left over.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
import time
from pathlib import Path

from heatserve.serving.errors import ServingError

_LOOK_SECONDS = 1.0
_LEAST_LETTERS = 16
_MOST_TOKENS = 1_000
_SCHEME = b"bearer "


class Tokens:
    """The tokens in a file; what is kept and compared is their SHA-256, in a time that does not tell how much fits."""

    def __init__(self, path: Path) -> None:
        """Read them.

        Raises:
            ServingError: the file cannot be read, or holds no tokens that nobody can guess.
        """
        self._path = path
        self._stamp = self._stamp_now()
        self._digests = _read(path)
        self._looked = time.monotonic()

    def client_of(self, authorization: bytes) -> str | None:
        """Who brings this header `Authorization`, as a name for his rate; None: he brings none of the tokens."""
        self._look()
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        digest = hashlib.sha256(authorization[len(_SCHEME) :].strip()).digest()
        found = [known for known in self._digests if hmac.compare_digest(known, digest)]  # all of them, always
        return found[0].hex() if found else None

    def _look(self) -> None:
        """Read the file again where it was changed, or could not be used."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            stamp = self._stamp_now()
            if stamp != self._stamp or not self._digests:
                self._digests = _read(self._path)
                self._stamp = stamp
        except ServingError as error:
            if self._digests:
                sys.stderr.write(f"{error}; nobody is let in until it can be used\n")
            self._digests = ()

    def _stamp_now(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise ServingError(f"--token-file {self._path}: expected a file, found: {error.strerror}") from None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ServingError(f"--token-file {path}: expected a file, found: {error.strerror}") from None
    tokens = [line.strip() for line in lines if line.strip()]
    if not 0 < len(tokens) <= _MOST_TOKENS:
        raise ServingError(f"--token-file {path}: expected 1 to {_MOST_TOKENS} tokens, one a line, found {len(tokens)}")
    if any(len(token) < _LEAST_LETTERS or not token.isascii() for token in tokens):
        raise ServingError(
            f"--token-file {path}: expected tokens of at least {_LEAST_LETTERS} ASCII characters (`openssl rand "
            "-hex 32` makes one), found another"
        )
    return tuple(hashlib.sha256(token).digest() for token in tokens)
