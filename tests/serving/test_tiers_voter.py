"""The process that votes: its answers are true, questions share batches, and nobody at the other end can hold it up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from known_tiers import at_distance, distances_of, write_known_model
from tiny_model import SHAPE, SIGMA

from heatserve.certification.radius import Float32Array
from heatserve.certification.voting import Classifier
from heatserve.export.card import BASE_NAME
from heatserve.export.runtime.session import classifier as of_session
from heatserve.export.runtime.session import open_session
from heatserve.serving.tiers.voter import Voter
from heatserve.serving.unix_sockets import connected, listening
from heatserve.serving.vote_protocol import Channel, Finding, GiveUp, Unanswered, VoteQuestion

BATCH = 32


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    version_dir = write_known_model(tmp_path_factory.mktemp("repository"))
    return of_session(open_session(version_dir / BASE_NAME))


@contextmanager
def voter(classifier: Classifier, folder: Path, *, most_open: int = 10_000) -> Iterator[Callable[[], Channel]]:
    """A voter in a thread that ends with the tests; yields how to connect to it."""
    listener, channels = listening(folder), list[Channel]()
    voting = Voter(classifier, sigma=SIGMA, shape=SHAPE, batch_size=BATCH, most_open=most_open)
    threading.Thread(target=voting.serve, args=(listener,), daemon=True).start()

    def connect() -> Channel:
        channels.append(Channel(connected(folder), shape=SHAPE))
        return channels[-1]

    yield connect
    for channel in channels:
        channel.close()


def confirm(number: int, *, label: int = 0, radius: float = 0.1, n: int = 1000) -> VoteQuestion:
    return VoteQuestion(number, "confirm", 1e-6, n, label=label, radius=radius)


def certify(number: int, *, n: int = 100, n0: int = 16, kind: str = "certify") -> VoteQuestion:
    return VoteQuestion(number, kind, 1e-3, n, n0=n0, top_k=1)


def answers(channel: Channel, count: int) -> dict[int, Finding | Unanswered]:
    """The final answers to so many questions, by number."""
    found = dict[int, Finding | Unanswered]()
    while len(found) < count:
        message, _ = channel.receive()
        assert isinstance(message, Finding | Unanswered)
        if isinstance(message, Unanswered) or message.is_final:
            found[message.number] = message
    return found


def received(channel: Channel) -> Finding | Unanswered | None:
    """The next answer; None: the connection has ended."""
    try:
        message, _ = channel.receive()
    except (EOFError, ConnectionError):
        return None
    assert isinstance(message, Finding | Unanswered)
    return message


def test_what_is_confirmed_or_denied_is_true(classifier: Classifier, tmp_path: Path) -> None:
    """The exact radius of each image is its distance from the boundary, and 0 for the class beyond."""
    distances = np.r_[np.linspace(-0.3, 0.3, 61), [0.099] * 30, [0.101] * 30, [0.4] * 10]
    images = at_distance(*distances, on_grid=False)
    with voter(classifier, tmp_path) as connect:
        channel = connect()
        for number, image in enumerate(images):
            channel.send(confirm(number), image)
        found = answers(channel, len(images))
    true = distances_of(images) > 0.1
    for number, finding in found.items():
        assert isinstance(finding, Finding)
        assert finding.sampling == "float32"
        assert finding.reason != ("disproven" if true[number] else "proven"), distances[number]
    far = [found[number] for number, distance in enumerate(distances) if distance > 0.35]
    proven = [f for f in far if isinstance(f, Finding) and f.reason == "proven"]
    assert len(proven) > 0.5 * len(far) > 0


def test_certify_proves_radii_that_are_true_and_streams_bounds_that_grow(
    classifier: Classifier, tmp_path: Path
) -> None:
    images = at_distance(0.2, 0.25, 0.3)  # 100 votes guess the class of each, but for 10⁻⁹
    with voter(classifier, tmp_path) as connect:
        channel = connect()
        for number, image in enumerate(images):
            channel.send(certify(number, n0=100, n=2000), image)
        found = answers(channel, len(images))
        channel.send(certify(9, n=2000, kind="certify_stream"), images[2])
        bounds = list[Finding]()
        while not (bounds and bounds[-1].is_final):
            message, _ = channel.receive()
            assert isinstance(message, Finding)
            bounds.append(message)
    for number, distance in enumerate(distances_of(images)):
        finding = found[number]
        assert isinstance(finding, Finding)
        assert (finding.classes, finding.votes, finding.sampling) == ((0,), 2100, "grid")
        assert finding.radius < distance
        assert finding.radius > distance - 0.06
    radii, votes = [bound.radius for bound in bounds], [bound.votes for bound in bounds]
    assert len(bounds) > 10
    assert radii == sorted(radii)
    assert votes == sorted(set(votes))
    assert {bound.reason for bound in bounds[:-1]} == {"tightening"}
    assert 0.2 < radii[-1] < distances_of(images)[2]


def test_noise_is_drawn_afresh_for_each_question(classifier: Classifier, tmp_path: Path) -> None:
    with voter(classifier, tmp_path) as connect:
        channel = connect()
        for number in range(4):
            channel.send(certify(number, n=2000), at_distance(0.1)[0])
        found = answers(channel, 4).values()
    assert len({finding.p_lower for finding in found if isinstance(finding, Finding)}) > 1


def test_questions_share_batches(classifier: Classifier, tmp_path: Path) -> None:
    sizes, all_asked = list[int](), threading.Event()

    def counting(images: Float32Array) -> Float32Array:
        all_asked.wait()
        sizes.append(len(images))
        return np.asarray(classifier(images))

    with voter(counting, tmp_path) as connect:
        channels = [connect(), connect()]
        for channel in channels:
            for number in range(8):
                channel.send(certify(number, n=16, n0=16), at_distance(0.2)[0])
        time.sleep(0.3)
        all_asked.set()
        for channel in channels:
            answers(channel, 8)
    assert sum(sizes) == 2 * 8 * 32
    assert len(sizes) <= 2 * 8 * 32 / BATCH + 2, sizes  # one by one, each question takes two batches
    assert max(sizes) == BATCH


def test_a_question_at_fault_fails_alone(classifier: Classifier, tmp_path: Path) -> None:
    def breaking(images: Float32Array) -> Float32Array:
        if (images.mean(axis=(1, 2, 3)) > 0.9).any():
            raise RuntimeError("out of memory")
        return np.asarray(classifier(images))

    nan = at_distance(0.2)[0].copy()
    nan[0, 3, 3] = np.nan
    with voter(breaking, tmp_path) as connect:
        channel = connect()
        channel.send(confirm(0), at_distance(0.3)[0])
        channel.send(confirm(1), nan)
        channel.send(confirm(2), np.ones(SHAPE, np.float32))
        channel.send(confirm(3, radius=100.0), at_distance(0.3)[0])
        channel.send(confirm(4), at_distance(0.3)[0])
        found = answers(channel, 5)
    assert {number for number, answer in found.items() if isinstance(answer, Unanswered)} == {1, 2, 3}
    assert all(isinstance(found[number], Finding) for number in (0, 4))


def test_more_questions_than_may_be_open_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    with voter(classifier, tmp_path, most_open=2) as connect:
        channel = connect()
        for number in range(3):
            channel.send(certify(number, n=10**6), at_distance(0.3)[0])
        message, _ = channel.receive()
        assert message == Unanswered(2, "queue: expected at most 2 open questions")


@pytest.mark.parametrize("way", ["give up", "leave", "talk nonsense", "repeat a number"])
def test_no_votes_are_taken_that_nobody_waits_for(classifier: Classifier, tmp_path: Path, way: str) -> None:
    calls = list[float]()

    def counting(images: Float32Array) -> Float32Array:
        calls.append(time.monotonic())
        return np.asarray(classifier(images))

    with voter(counting, tmp_path) as connect:
        channel = connect()
        channel.send(certify(1, n=10**8), at_distance(0.3)[0])
        while len(calls) < 10:
            time.sleep(0.01)
        if way == "give up":
            channel.send(GiveUp(1))
        elif way == "leave":
            channel.close()
        elif way == "talk nonsense":
            channel.send(Finding(1, True, "proven", 1, "grid"))
        else:
            channel.send(certify(1), at_distance(0.3)[0])
        deadline = time.monotonic() + 10
        while time.monotonic() - calls[-1] < 0.5:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        other = connect()  # it votes on for others
        other.send(confirm(1), at_distance(0.3)[0])
        answers(other, 1)


def test_whoever_does_not_read_or_sends_half_a_message_holds_nobody_up(classifier: Classifier, tmp_path: Path) -> None:
    with voter(classifier, tmp_path) as connect:
        half = connected(tmp_path)
        half.sendall(b"\0\0\0\x40\0\0")
        deaf = Channel(connected(tmp_path), shape=SHAPE)
        with suppress(OSError):  # it loses its connection
            for number in range(6000):
                deaf.send(confirm(number, radius=100.0), at_distance(0.3)[0])
        channel = connect()
        channel.send(confirm(1), at_distance(0.3)[0])
        assert isinstance(answers(channel, 1)[1], Finding)
        assert len([*iter(lambda: received(deaf), None)]) < 6000
        half.close()
        deaf.close()


def test_garbage_ends_only_its_own_connection(classifier: Classifier, tmp_path: Path) -> None:
    with voter(classifier, tmp_path) as connect:
        channel = connect()
        channel.send(certify(1, n=5000), at_distance(0.3)[0])
        for garbage in (b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n" * 10, b""):
            with connected(tmp_path) as hostile:
                hostile.sendall(garbage)
                hostile.shutdown(socket.SHUT_WR)
                hostile.settimeout(10)
                with suppress(ConnectionResetError):
                    assert hostile.recv(1) == b""
        assert isinstance(answers(channel, 1)[1], Finding)
