"""What a tier in Triton and the process that votes tell each other, over a Unix socket.

A message is two sizes of 32 bits, a JSON object of the first size and raw bytes of the second: the pixels of a
question's image. Nothing that comes is executed, and nothing is believed before its type is checked.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float32Array
from heatserve.export.tiers import TierModel, TierReason

_SIZES = struct.Struct("!II")
_MOST_HEADER = 2**16


class ProtocolError(HeatserveError):
    """What came is not a message of this protocol: the connection that it came over is of no use any more."""


@dataclass(frozen=True)
class VoteQuestion:
    """What is asked about one image, FP32 [C, H, W] in [0,1], which goes along."""

    number: int
    """Which question of its connection it is."""
    kind: str
    """`confirm`, `certify` or `certify_stream`."""
    alpha: float
    n: int
    label: int = -1
    """For confirm, the class, and the L2 radius."""
    radius: float = 0.0
    n0: int = 1
    """For certify, the votes for its guess, and how many classes it is about."""
    top_k: int = 1


@dataclass(frozen=True)
class Sample:
    """What the single pass answered to an image, FP32 [C, H, W] in [0,1], which goes along: for the shadow audit."""

    label: int
    score: float
    """Φ⁻¹ of the largest probability."""
    radius: float
    """The certified radius that was served, L2."""


@dataclass(frozen=True)
class GiveUp:
    """The answer to a question is not wanted any more."""

    number: int


@dataclass(frozen=True)
class Finding:
    """What the votes for a question say; for a stream, several times."""

    number: int
    is_final: bool
    reason: str
    votes: int
    sampling: str
    radius: float = 0.0
    """Of certify: what is proven; 0: nothing is."""
    p_lower: float = 0.0
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Unanswered:
    """Why there is no answer to a question, in words for the server's log."""

    number: int
    problem: str


Message = VoteQuestion | Sample | GiveUp | Finding | Unanswered
_MESSAGES: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (VoteQuestion, Sample, GiveUp, Finding, Unanswered)
}
_TYPES: dict[str, type] = {"int": int, "bool": bool, "str": str}


class Channel:
    """One end of a connection. One thread may send while another one receives."""

    def __init__(self, connection: socket.socket, *, shape: tuple[int, ...]) -> None:
        """Take over a connected socket.

        Args:
            connection: the socket.
            shape: [C, H, W] of the images.
        """
        self._socket = connection
        self._shape = shape
        self._image_bytes = 4 * int(np.prod(shape))

    def send(self, message: Message, image: Float32Array | None = None) -> None:
        """Send a message, with the image of a question or sample.

        Raises:
            OSError: the other end is gone.
        """
        content = json.dumps({"is": type(message).__name__, **asdict(message)}, allow_nan=False).encode()
        pixels = b"" if image is None else np.ascontiguousarray(image, np.float32).tobytes()
        self._socket.sendall(_SIZES.pack(len(content), len(pixels)) + content + pixels)

    def receive(self) -> tuple[Message, Float32Array | None]:
        """The next message, and the image of a question or sample.

        Raises:
            EOFError: the other end closed the connection.
            OSError: this one did.
            ProtocolError: something else than a message came.
        """
        header, data = _SIZES.unpack(self._read(_SIZES.size))
        if header > _MOST_HEADER or data not in (0, self._image_bytes):
            raise ProtocolError(
                f"message: expected at most {_MOST_HEADER} bytes and an image of {self._image_bytes}, found {header} "
                f"and {data}"
            )
        message = _message(self._read(header))
        if isinstance(message, VoteQuestion | Sample) is not bool(data):
            raise ProtocolError(f"message: expected an image with a question only, found {data} bytes with {message}")
        pixels: NDArray[np.float32] = np.frombuffer(self._read(data), np.float32)
        return message, pixels.reshape(self._shape) if data else None

    def close(self) -> None:
        """End the connection; whoever waits for a message at either end is told."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, size: int) -> bytes:
        content = bytearray(size)
        view = memoryview(content)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return bytes(content)


def _message(content: bytes) -> Message:
    """The message of a JSON object that has exactly its fields, each of its type; numbers are finite."""
    try:
        found = json.loads(content)
        kind = _MESSAGES[found.pop("is")]
        types = {field.name: str(field.type) for field in fields(kind)}
        if set(found) != set(types):
            raise ValueError
        message = kind(**{name: _typed(found[name], type_) for name, type_ in types.items()})
        if isinstance(message, Finding):
            TierReason(message.reason)
        if isinstance(message, VoteQuestion):
            TierModel(message.kind)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ProtocolError(f"message: expected one of {', '.join(_MESSAGES)}, found {content[:200]!r}") from None
    return message


def _typed(value: Any, type_: str) -> Any:
    """A value of JSON as a field of that type takes it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if type_ == "float" and is_number and math.isfinite(value):
        return float(value)
    if type_ == "tuple[int, ...]" and isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    if type_ in _TYPES and type(value) is _TYPES[type_]:
        return value
    raise ValueError


def socket_folder(offer_folder: Path, model: str) -> Path:
    """Where the process that votes for a version listens, in the folder of its offer, which is for one user only."""
    return offer_folder / "votes" / model
