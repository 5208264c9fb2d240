"""Which requests the playground takes at all: those of its own page, in a browser on this machine, of bounded size.

A page of somebody else, open in the same browser, can send requests to this machine too. It cannot read the answers,
unless a name of its own leads here (DNS rebinding), and it cannot send `Origin: http://127.0.0.1:7860`.
"""

from __future__ import annotations

import ipaddress
import json
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from heatserve.certification.errors import HeatserveError
from heatserve.playground.refusals import Refused, said_of, status_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_JSON = 8 * 2**20
"""Bytes of a request about an image: three times those of 224×224 pixels in colour, as numbers in base64."""
MOST_PICTURE = 16 * 2**20
"""Bytes of a file."""
PICTURE = b"application/octet-stream"

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guarded:
    """An application behind these checks, whose errors become sentences."""

    def __init__(self, application: Application, *, is_local: bool) -> None:
        """Guard it.

        Args:
            application: answers what passes.
            is_local: whether it listens on this machine only.
        """
        self._application = application
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        has_begun = False

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        try:
            most = self._check(scope)
            await self._application(scope, _bounded(receive, most), with_headers)
        except HeatserveError as error:
            if has_begun:
                raise
            await _refuse(with_headers, status_of(error), said_of(error))
        except Exception as error:
            traceback.print_exc()  # into the terminal, and to nobody else
            if not has_begun:
                await _refuse(with_headers, 500, said_of(error))

    def _check(self, scope: Scope) -> int:
        """The most bytes that the body may have.

        Raises:
            Refused: it is not a request of our own page.
        """
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        if sum(name == b"host" for name, _ in scope["headers"]) != 1 or not is_address(
            host := headers[b"host"].decode("latin-1"), is_local=self._is_local
        ):
            raise Refused(421, "Host: expected the address of this machine in digits, or localhost, got another name.")
        if scope["path"] != "/" and headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise _not_ours()
        if scope["method"] in ("GET", "HEAD"):
            return 0
        if scope["method"] != "POST":
            raise Refused(405, "Method: expected GET, HEAD or POST, got another one.")
        if headers.get(b"origin") != f"http://{host}".encode("latin-1"):
            raise _not_ours()
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind not in (PICTURE, b"application/json"):
            raise Refused(415, "Content-Type: expected application/json, or application/octet-stream for a file.")
        most = MOST_PICTURE if kind == PICTURE else MOST_JSON
        length = headers.get(b"content-length", b"0")
        if len(length) > 18 or not length.isdigit() or int(length) > most:
            raise _too_large(most)
        return most


def is_address(host: str, *, is_local: bool) -> bool:
    """Whether a `Host` header names this machine in a way that no name server has a say in.

    Args:
        host: its value, a port included.
        is_local: whether only the loopback addresses will do; otherwise any address in digits does.
    """
    name, colon, port = host.rpartition(":")
    if not colon or name.endswith(":") or (host.startswith("[") and host.endswith("]")):
        name, port = host, "0"
    if not (port.isascii() and port.isdigit()):
        return False
    if name.lower() == "localhost":
        return True
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    return address.is_loopback or not is_local


def _bounded(receive: Receive, most: int) -> Receive:
    """A body, refused once it has more than so many bytes."""
    found = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal found
        message = await receive()
        found += len(message.get("body", b""))
        if found > most:
            raise _too_large(most)
        return message

    return bounded


def _not_ours() -> Refused:
    return Refused(403, "Origin: expected a request of the playground's own page, got one of somebody else.")


def _too_large(most: int) -> Refused:
    return Refused(413, f"This is too large: expected at most {most // 2**20} MiB.")


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
