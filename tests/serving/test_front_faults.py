"""What could take the front down, or its descriptors, without a Triton behind it."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fronts import PATIENCE_SECONDS, front_before, raw_answer, read_all, status_of
from relays import make_certificates

from heatserve.serving.front.options import FrontOptions
from heatserve.serving.front.state import FrontState
from heatserve.serving.observed.families import FRONT_REJECTED
from heatserve.serving.observed.page import value_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
MOST = 16


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.fixture
def many() -> Iterator[list[socket.socket]]:
    """Connections, to be closed at the end."""
    opened = list[socket.socket]()
    yield opened
    for connection in opened:
        connection.close()


def connect_from_everywhere(port: int, many: list[socket.socket], *, count: int) -> None:
    """Open connections from eight addresses, none of which says anything."""
    for number in range(count):
        caller = socket.socket()
        many.append(caller)
        caller.settimeout(2)
        caller.bind((f"127.0.0.{2 + number % 8}", 0))
        caller.connect(("127.0.0.1", port))


def test_what_it_cannot_understand_of_its_supervisor_it_says_and_fails_with() -> None:
    with front_before(FrontState()) as running:
        stdin = running.front._process.stdin  # type: ignore[union-attr]
        assert stdin is not None
        stdin.write(b'{"ready": 1}\n')
        stdin.flush()
        assert running.front.wait(10)
        assert running.front.ending() == "ended with exit code 1"
        assert "KeyError: 'grpc_tls'" in running.log.read_text()


def test_handshakes_that_are_not_done_take_no_more_than_their_share(tmp_path: Path, many: list[socket.socket]) -> None:
    certificates = make_certificates(tmp_path)
    key = certificates.server.with_suffix(".key")
    options = FrontOptions(tls_cert=certificates.server, tls_key=key, max_connections=MOST)
    with front_before(FrontState(), options) as running:
        before = descriptors(running.front.pid)
        connect_from_everywhere(running.port, many, count=10 * MOST)
        while value_of(running.folder, FRONT_REJECTED, reason="connections") < 9 * MOST:
            assert not running.front.wait(0.05)
        assert descriptors(running.front.pid) <= before + MOST + 1  # the page of metrics


def test_a_flood_of_connections_is_closed_without_an_answer(many: list[socket.socket]) -> None:
    """A connection that is refused is read for a moment, for its answer to arrive: that must not hold thousands."""
    with front_before(FrontState(), FrontOptions(max_connections=MOST)) as running:
        before = descriptors(running.front.pid)
        connect_from_everywhere(running.port, many, count=10 * MOST)
        while value_of(running.folder, FRONT_REJECTED, reason="connections") < 9 * MOST:
            assert not running.front.wait(0.05)
        assert descriptors(running.front.pid) <= before + 2 * MOST + 2
        for caller in many:
            caller.close()
        while status_of(raw_answer(running.port, LIVE)) != 200:
            assert not running.front.wait(0.05)


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_crowd_of_callers_does_not_keep_a_probe_from_the_port_of_metrics(
    tmp_path: Path, many: list[socket.socket], is_encrypted: bool
) -> None:
    """An orchestrator would end a front that lives, and all callers with it: over TLS, before their handshakes too."""
    certificates = make_certificates(tmp_path)
    cert, key = certificates.server, certificates.server.with_suffix(".key")
    plain = FrontOptions(max_connections=MOST)
    options = replace(plain, tls_cert=cert, tls_key=key) if is_encrypted else plain
    with front_before(FrontState(), options) as running:
        connect_from_everywhere(running.port, many, count=2 * MOST)
        while not value_of(running.folder, FRONT_REJECTED, reason="connections"):
            assert not running.front.wait(0.05)
        with socket.create_connection(("127.0.0.1", running.sockets.metrics_port), PATIENCE_SECONDS) as probe:
            spoken = ssl._create_unverified_context().wrap_socket(probe) if is_encrypted else probe
            spoken.sendall(LIVE)
            assert status_of(read_all(spoken)) == 200
