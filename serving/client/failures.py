"""What went wrong with a request, as an error of heatserve that says what to do."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from heatserve.serving.client.address import ServerAddress
from heatserve.serving.errors import OverloadedError, ServingError, TooLateError, UnavailableError, UnknownModelError

OVERLOADED = ("Exceeds maximum queue size", "Request timeout expired")
"""What Triton says, over gRPC and over HTTP, of a request for which its queue has no room or no time."""

QUEUE_FULL = "queue is full"
"""What a tier says of images that would wait for votes behind too many others; it names a time to ask again."""

ASK_AGAIN = "ask again"
"""What a tier says, with the status UNAVAILABLE, of a request that was lost; another one will be answered."""

UNLOADED = "has no available versions"
"""What Triton says, with the status NOT_FOUND, of a model that it has unloaded since it ends."""

NO_SHARED_MEMORY = "Failed to increase the shared memory pool size"
"""What Triton says, with the name of the region, of a request or an answer for which it has no shared memory now."""

GIVEN_UP = "is not healthy"
"""What Triton says of an instance of a model whose process was silent for a second. It never takes it back."""

ENDING = (UNLOADED, GIVEN_UP, "is not at ready state", "Server is stopping", "Server not ready", "Server exiting")
"""What Triton says of any model, or of itself, while it ends; `TritonServer` ends one that has given up an instance.

Our servers load all of their models before they are ready, and unload none before they end. A name that no model has is
answered with other words, before and while Triton ends: `unknown model: 'NAME' is not found`.
"""

_UNTRUSTED = re.compile(
    r"certificate[ _]verify[ _]failed|hostname mismatch|hostname verification|not valid for|peer name .* is not in",
    re.I,
)
_NOT_SHOWN = re.compile(r"certificate[ _]required|bad[ _]certificate|unknown[ _]ca|handshake[ _]failure", re.I)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_LOST = ("Stream removed", "RST_STREAM", "Socket closed", "GOAWAY")


class Refused(Exception):
    """A response that is no answer, of Triton or of what is in front of it.

    Attributes:
        status: the status of HTTP; empty: none of its own.
        message: Triton's; None: it does not come from Triton.
        retry_after: the header `Retry-After`.
        location: the header `Location`.
    """

    def __init__(
        self, status: str, message: str | None, *, retry_after: str | None = None, location: str | None = None
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = None if message is None else harmless(message)
        self.retry_after = retry_after
        self.location = None if location is None else harmless(location)


def harmless(text: str) -> str:
    """A text of a server on one line, without what a terminal would obey."""
    return _CONTROLS.sub(" ", text)


@contextmanager
def explained(address: ServerAddress) -> Iterator[None]:
    """Turn the errors of the libraries that ask a server into `ServingError`.

    Args:
        address: the server's, for the message.
    """
    try:
        yield
    except Refused as error:
        if error.message in (None, "Not Found"):  # what Triton says of a path that it does not know
            raise _not_of_triton(address.url, error) from None
        if error.status == "429":
            raise _too_many(address.url, error, str(error.message)) from None
        raise _refusal(address.url, str(error.message)) from None
    except _errors("grpc", "RpcError") as error:
        raise _grpc_failure(address, error.code().name, harmless(error.details() or "")) from None
    except (TimeoutError, asyncio.TimeoutError, *_errors("urllib3", "exceptions.TimeoutError")) as error:
        if isinstance(error, _errors("urllib3", "exceptions.NewConnectionError")):  # a timeout to urllib3 before 3.0
            raise _unreachable(address, _innermost(error)) from None
        raise _too_late(address.url) from None
    except (OSError, *_errors("urllib3", "exceptions.HTTPError"), *_errors("aiohttp", "ClientError")) as error:
        raise _unreachable(address, _innermost(error)) from None


def _errors(module: str, name: str) -> Any:
    """An error of a library, as a tuple; none, where nothing has imported it."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return () if found is None else (found,)


def _innermost(error: BaseException) -> str:
    """What the first of a chain of errors says: each library wraps those of the one below."""
    below = [getattr(error, "reason", None), getattr(error, "original_error", None), *error.args, error.__cause__]
    for inner in below:
        if isinstance(inner, BaseException) and inner is not error:
            return _innermost(inner)
    return str(error) or type(error).__name__


def _grpc_failure(address: ServerAddress, status: str, message: str) -> ServingError:
    if status == "UNIMPLEMENTED" and "models with decoupled" not in message:
        return _no_model_server(address.url, message)
    if status in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return _not_let_in(address.url, message)
    if status == "RESOURCE_EXHAUSTED" and ASK_AGAIN in message:  # of what limits callers in front of Triton
        return _asked_too_much(address.url, message)
    if status == "DEADLINE_EXCEEDED":
        return _too_late(address.url)
    if status == "UNAVAILABLE" or (status in ("UNKNOWN", "INTERNAL") and any(words in message for words in _LOST)):
        known = _known_refusal(address.url, message)
        return known or _unreachable(address, message)
    return _refusal(address.url, message)


def _refusal(url: str, message: str) -> ServingError:
    message = re.sub(r"^\[request id: [^\]]*\] ", "", message)
    known = _known_refusal(url, message)
    if known is not None:
        return known
    if message.startswith("Request for unknown model"):
        return UnknownModelError(f"{url}: {message}; `heatserve serve` prints the names of the models that it serves")
    return ServingError(message)


def _known_refusal(url: str, message: str) -> ServingError | None:
    """What Triton or a tier says of a request that another server, or this one later, would answer."""
    message = re.sub(r"^\[request id: [^\]]*\] ", "", message)
    if any(words in message for words in OVERLOADED):
        return OverloadedError(
            f"{url}: the server has more requests than it can answer and refused this one ({message}); ask again "
            "later, ask for less at a time, or serve the model with more instances or cores"
        )
    if NO_SHARED_MEMORY in message:
        return OverloadedError(
            f"{url}: the server has no shared memory left for this request; ask again later, ask for less at a time, "
            "or give it more /dev/shm (docker run --shm-size)"
        )
    if QUEUE_FULL in message:
        return _asked_too_much(url, message)
    if any(words in message for words in ENDING):
        return UnavailableError(f"{url}: the server is ending ({message}); ask another one, or this one again later")
    return UnavailableError(f"{url}: {message}") if ASK_AGAIN in message else None


def _asked_too_much(url: str, message: str) -> OverloadedError:
    hint = re.search(rf"{ASK_AGAIN} in about (\d+(?:\.\d+)?) s", message)
    return OverloadedError(f"{url}: {message}", retry_after=float(hint[1]) if hint else None)


def _not_of_triton(url: str, error: Refused) -> ServingError:
    """What stands in front of Triton, or in its place, says with its status."""
    status = int(error.status or 404)
    if status == 429:
        return _too_many(url, error, "too many requests (HTTP 429); ask again later")
    if status in (502, 503, 504):
        return UnavailableError(f"{url}: what is in front of the server reaches none (HTTP {status}); ask again later")
    if status in (401, 403, 407):
        return _not_let_in(url, f"HTTP {status}")
    if 300 <= status < 400:
        return ServingError(f"{url}: expected an answer, found a redirection to {error.location}; use that address")
    if status == 413:
        return ServingError(f"{url}: the request is larger than what is in front of the server takes (HTTP 413)")
    return _no_model_server(url, f"HTTP {status}")


def _too_many(url: str, error: Refused, message: str) -> OverloadedError:
    hint = error.retry_after or ""
    seconds = float(hint) if re.fullmatch(r"\d+", hint) else None
    return OverloadedError(f"{url}: {message}", retry_after=seconds)


def _no_model_server(url: str, reason: str) -> ServingError:
    return ServingError(
        f"{url}: expected a server of models, found another service ({reason}); look at the port, and behind a proxy "
        "at the path at the end of the URL"
    )


def _not_let_in(url: str, reason: str) -> ServingError:
    return ServingError(f"{url}: this client is not let in ({reason}); give it another token, headers or certificate")


def forked(url: str, reason: str) -> TooLateError:
    """The error of a process that was forked from one that used gRPC, where that does not work."""
    return TooLateError(
        f"{url}: this process was forked from one that had used gRPC, which may not survive that ({reason}); ask over "
        "http://, begin to use the client after the fork, or start processes by spawn"
    )


def _too_late(url: str) -> ServingError:
    return TooLateError(f"{url}: no answer in time; give the client a larger timeout")


def _unreachable(address: ServerAddress, reason: str) -> ServingError:
    """The error of a connection that was not made, or was lost; `UnavailableError` where asking again may help."""
    url, reason = address.url, _printable(reason)
    if address.is_encrypted and _UNTRUSTED.search(reason):
        return ServingError(
            f"{url}: the server's certificate is not one to trust ({reason}); give the client its CA, and the name "
            "that is on the certificate as host"
        )
    if address.is_encrypted and _NOT_SHOWN.search(reason):
        return ServingError(f"{url}: the server wants another certificate of this client ({reason})")
    error = UnavailableError(f"{url}: no server answers here ({reason}); start one with `heatserve serve`")
    error.is_said = False
    return error


def _printable(text: str) -> str:
    """A text of a stranger on one line, without control characters and at most 300 characters long."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return words if len(words) <= 300 else f"{words[:300]}…"
