"""What went wrong with a request, as an error of heatserve that says what to do."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

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


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn the errors of tritonclient, and of the libraries that it connects with, into `ServingError`.

    Args:
        url: the server's, for the message.
    """
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        raise _refusal(url, str(error.status()), error.message()) from None
    except _rpc_errors() as error:
        raise _refusal(url, str(error.code()), str(error.details())) from None
    except (TimeoutError, asyncio.TimeoutError):  # one class only since Python 3.11
        raise _too_late(url) from None
    except _transport_errors() as error:
        raise _unreachable(url, str(error)) from None


def _rpc_errors() -> Any:
    """Those of gRPC itself, which only streams meet."""
    grpc = sys.modules.get("grpc")
    return () if grpc is None else grpc.RpcError


def _transport_errors() -> tuple[type[Exception], ...]:
    aiohttp = sys.modules.get("aiohttp")  # imported only by tritonclient's HTTP client for asyncio
    return (OSError, HTTPException) if aiohttp is None else (OSError, HTTPException, aiohttp.ClientError)


def _refusal(url: str, status: str, message: str) -> ServingError:
    message = message.removeprefix("[request id: <id_unknown>] ")
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
        hint = re.search(rf"{ASK_AGAIN} in about (\d+(?:\.\d+)?) s", message)
        return OverloadedError(f"{url}: {message}", retry_after=float(hint[1]) if hint else None)
    if any(words in message for words in ENDING):
        return UnavailableError(f"{url}: the server is ending ({message}); ask another one, or this one again later")
    if ASK_AGAIN in message:
        return UnavailableError(f"{url}: {message}")
    if "UNAVAILABLE" in status:
        return _unreachable(url, message)
    if "DEADLINE_EXCEEDED" in status:
        return _too_late(url)
    if message.startswith("Request for unknown model"):
        return UnknownModelError(f"{url}: {message}; `heatserve serve` prints the names of the models that it serves")
    return ServingError(message)


def _too_late(url: str) -> ServingError:
    return TooLateError(f"{url}: no answer in time; give the client a larger timeout")


def _unreachable(url: str, reason: str) -> ServingError:
    return UnavailableError(f"{url}: no server answers here ({reason}); start one with `heatserve serve`")
