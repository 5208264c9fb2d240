"""What tiers and the process that votes tell each other: what was sent comes, and nothing else passes for a message."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import SHAPE, random_images

from heatserve.serving.unix_sockets import connected, listening
from heatserve.serving.vote_protocol import Channel, Finding, GiveUp, Message, ProtocolError, Unanswered, VoteQuestion

QUESTION = VoteQuestion(7, "confirm", 1e-6, 1000, label=3, radius=0.125)
FINDING = Finding(7, True, "proven", 48, "grid", radius=0.25, p_lower=0.9, classes=(3, 1))
IMAGE_BYTES = 4 * int(np.prod(SHAPE))


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    channel = Channel(ours, shape=SHAPE)
    yield channel, theirs
    channel.close()
    theirs.close()


@pytest.mark.parametrize("message", [QUESTION, FINDING, GiveUp(2**40), Unanswered(1, "no: τ > 0")])
def test_what_was_sent_comes(ends: tuple[Channel, socket.socket], message: Message) -> None:
    image = random_images(1)[0] if message is QUESTION else None
    Channel(ends[1], shape=SHAPE).send(message, image)
    came, pixels = ends[0].receive()
    assert came == message
    assert (pixels is None) == (image is None)
    if pixels is not None and image is not None:
        np.testing.assert_array_equal(pixels, image)


def frame(content: object, data: bytes = b"") -> bytes:
    header = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("!II", len(header), len(data)) + header + data


def finding(**changes: Any) -> dict[str, Any]:
    return {**FINDING.__dict__, "is": "Finding", "classes": [3, 1], **changes}


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("!II", 2**31, 0),
        struct.pack("!II", 100, IMAGE_BYTES + 4),
        struct.pack("!II", 100, 2**32 - 1),
        frame(b"\xff\xfe"),
        frame(b"[" * 60_000),
        frame([]),
        frame({"is": "Finding"}),
        frame({"is": "__class__"}),
        frame(finding(more=1)),
        frame(finding(number=True)),
        frame(finding(number=7.0)),
        frame(finding(is_final=1)),
        frame(finding(reason="certain")),
        frame(finding(classes=[1, "2"])),
        frame(finding(classes=3)),
        frame(json.dumps(finding()).replace("0.25", "1e999").encode()),
        frame(json.dumps(finding()).replace("0.25", "NaN").encode()),
        frame(json.dumps(finding()).replace("0.25", "9" * 5000).encode()),
        frame(finding(), b"\0" * IMAGE_BYTES),
        frame({**QUESTION.__dict__, "is": "VoteQuestion"}),
        frame({**QUESTION.__dict__, "is": "VoteQuestion", "kind": "guess"}, b"\0" * IMAGE_BYTES),
    ],
)
def test_what_is_no_message_is_refused(ends: tuple[Channel, socket.socket], sent: bytes) -> None:
    ends[1].sendall(sent)
    with pytest.raises(ProtocolError, match="message: expected"):
        ends[0].receive()


def test_half_a_message_is_the_end(ends: tuple[Channel, socket.socket]) -> None:
    ends[1].sendall(frame(finding())[:-3])
    ends[1].shutdown(socket.SHUT_RDWR)
    with pytest.raises(EOFError):
        ends[0].receive()


def test_a_folder_with_a_long_name_will_do(tmp_path: Path) -> None:
    """The address of a Unix socket has at most 107 bytes."""
    folder = tmp_path / ("x" * 200) / ("y" * 200)
    folder.mkdir(parents=True)
    with pytest.raises(OSError, match="No such file"):
        connected(folder)
    with listening(folder) as listener, connected(folder) as here:
        there = listener.accept()[0]
        here.sendall(b"hello")
        assert there.recv(5) == b"hello"
        there.close()
    with listening(folder):  # again, as after a voter that was killed
        pass
