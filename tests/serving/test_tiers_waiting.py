"""Requests that wait for votes: whatever the process that votes does, each is answered, in time, and never falsely."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatserve.certification.outcome import Outcome
from heatserve.export.tiers import Tier, TierModel, TierReason
from heatserve.serving.errors import OverloadedError, ServingError, UnavailableError
from heatserve.serving.tiers import voter_connection
from heatserve.serving.tiers.answering import ImageAnswer
from heatserve.serving.tiers.questions import CheckedQuestion
from heatserve.serving.tiers.voter_connection import VoterConnection
from heatserve.serving.tiers.waiting import TierRequest, WaitingRequests
from heatserve.serving.unix_sockets import connected, listening
from heatserve.serving.vote_protocol import Channel, Finding, GiveUp, Unanswered, VoteQuestion

SHAPE = (3, 128, 128)
"""An image of it fills the buffer of a socket."""
CONFIRM = CheckedQuestion(1e-6, 1000, 5000, radius=0.125)
CERTIFY = CheckedQuestion(1e-6, 1000, 5000, n0=100, top_k=2)
PROVEN = Finding(0, True, "proven", 48, "grid")
CERTIFIED = Finding(0, True, "proven", 1100, "grid", radius=0.3, p_lower=0.9, classes=(1, 2))


class Asked:
    """Somebody who waits, and keeps what comes."""

    def __init__(self) -> None:
        self.is_being_asked = self.was_asked_meanwhile = self.was_asked_afterwards = False
        self.answers = list[list[ImageAnswer]]()
        self.error: ServingError | None = None
        self.is_over = threading.Event()
        self.has_left = False

    def answer(self, answers: Sequence[ImageAnswer], *, is_final: bool) -> None:
        assert not self.is_over.is_set()
        self.was_asked_meanwhile |= self.is_being_asked
        self.answers.append([*answers])
        if is_final:
            self.is_over.set()

    def fail(self, error: ServingError | None) -> None:
        assert not self.is_over.is_set()
        self.error = error
        self.is_over.set()

    def is_gone(self) -> bool:
        self.is_being_asked = True
        self.was_asked_afterwards |= self.is_over.is_set()
        time.sleep(0.002)
        self.is_being_asked = False
        return self.has_left

    def result(self) -> list[ImageAnswer]:
        assert self.is_over.wait(10)
        assert self.error is None, self.error
        return self.answers[-1]


class Tiers:
    """The waiting requests of a tier, and the other end of its connection in the hands of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listener = listening(folder)
        self.logged = list[str]()
        self.waiting = dict[TierModel, WaitingRequests]()

    def start(self, kind: TierModel, *, queue: int = 8) -> Channel:
        waiting = WaitingRequests(self.folder, kind=kind, shape=SHAPE, classes=10, queue=queue, log=self.logged.append)
        waiting.start()
        self.waiting[kind] = waiting
        return self.accept()

    def accept(self) -> Channel:
        return Channel(self.listener.accept()[0], shape=SHAPE)

    def ask(self, kind: TierModel, *, images: int = 1, seconds: float = 5.0, question: Any = None) -> Asked:
        """Ask once the connection is there, which takes a moment."""
        question = question or (CONFIRM if kind is TierModel.CONFIRM else CERTIFY)
        tier = Tier.CONFIRM if kind is TierModel.CONFIRM else Tier.CERTIFY
        for _ in range(100):
            asked = Asked()
            answers = [ImageAnswer(3 if kind is TierModel.CONFIRM else -1, question.alpha, tier) for _ in range(images)]
            request = TierRequest(asked, question, time.monotonic() + seconds, answers)
            image = np.zeros(SHAPE, np.float32)
            self.waiting[kind].add(request, dict.fromkeys(range(images), image))
            if not isinstance(asked.error, UnavailableError):
                return asked
            time.sleep(0.02)
        raise AssertionError("no connection")


@pytest.fixture
def tiers(tmp_path: Path) -> Iterator[Tiers]:
    tiers = Tiers(tmp_path)
    yield tiers
    for waiting in tiers.waiting.values():
        waiting.stop()
    tiers.listener.close()


def question_from(voter: Channel) -> VoteQuestion:
    message, image = voter.receive()
    assert isinstance(message, VoteQuestion)
    assert image is not None
    return message


def prove(voter: Channel, questions: int) -> None:
    """Answer the next questions."""
    for _ in range(questions):
        voter.send(replace(PROVEN, number=question_from(voter).number))


def test_a_question_carries_what_was_asked_and_its_answer_comes_back(tiers: Tiers) -> None:
    voter = tiers.start(TierModel.CONFIRM)
    asked = tiers.ask(TierModel.CONFIRM, images=2)
    first, second = question_from(voter), question_from(voter)
    assert replace(first, number=0) == VoteQuestion(0, "confirm", 1e-6, 1000, label=3, radius=0.125)
    voter.send(replace(PROVEN, number=second.number, reason="hopeless", votes=0))
    voter.send(replace(PROVEN, number=first.number))
    yes, undecided = asked.result()
    assert (yes.outcome, yes.proven_radius, yes.votes, yes.sampling) == (Outcome.YES, 0.125, 48, "grid")
    assert (undecided.outcome, undecided.proven_radius, undecided.sampling) == (Outcome.UNDECIDED, 0, "none")


def test_a_tier_that_has_started_can_be_asked_at_once(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton says of a model that it is ready when its start has ended: the first to ask would be refused."""

    def connected_late(folder: Path) -> socket.socket:
        time.sleep(0.2)
        return connected(folder)

    monkeypatch.setattr(voter_connection, "connected", connected_late)
    connection = VoterConnection(tiers.folder, shape=SHAPE, on_answer=print, on_loss=print)
    connection.start()
    connection.ask([])
    connection.stop()


@pytest.mark.parametrize(
    ("kind", "finding"),
    [
        (TierModel.CONFIRM, replace(PROVEN, votes=1001)),
        (TierModel.CONFIRM, replace(PROVEN, votes=-1)),
        (TierModel.CONFIRM, replace(PROVEN, is_final=False)),
        (TierModel.CONFIRM, replace(PROVEN, reason="not claimed")),
        (TierModel.CONFIRM, replace(PROVEN, reason="tightening")),
        (TierModel.CERTIFY, replace(CERTIFIED, votes=1101)),
        (TierModel.CERTIFY, replace(CERTIFIED, classes=(1,))),
        (TierModel.CERTIFY, replace(CERTIFIED, classes=(1, 10))),
        (TierModel.CERTIFY, replace(CERTIFIED, classes=(1, -1))),
        (TierModel.CERTIFY, replace(CERTIFIED, p_lower=0.5)),
        (TierModel.CERTIFY, replace(CERTIFIED, p_lower=1.5)),
        (TierModel.CERTIFY, replace(CERTIFIED, radius=-0.1)),
        (TierModel.CERTIFY, replace(CERTIFIED, radius=0.0)),
        (TierModel.CERTIFY, replace(CERTIFIED, reason="disproven")),
        (TierModel.CERTIFY, replace(CERTIFIED, is_final=False)),
        (TierModel.CERTIFY_STREAM, replace(CERTIFIED, reason="tightening")),
    ],
)
def test_a_finding_that_cannot_be_is_an_error(tiers: Tiers, kind: TierModel, finding: Finding) -> None:
    voter = tiers.start(kind)
    asked = tiers.ask(kind)
    voter.send(replace(finding, number=question_from(voter).number))
    assert asked.is_over.wait(10)
    assert not asked.answers
    assert "make no sense" in str(asked.error)
    assert str(finding.votes) in tiers.logged[0]


def test_a_finding_for_another_question_answers_none(tiers: Tiers) -> None:
    voter = tiers.start(TierModel.CONFIRM)
    asked = tiers.ask(TierModel.CONFIRM, seconds=0.5)
    voter.send(replace(PROVEN, number=question_from(voter).number + 1))
    assert [answer.reason for answer in asked.result()] == [TierReason.DEADLINE]


def test_bytes_that_are_no_message_lose_the_connection_and_all_its_questions(tiers: Tiers) -> None:
    voter = tiers.start(TierModel.CONFIRM)
    asked = [tiers.ask(TierModel.CONFIRM) for _ in range(2)]
    question_from(voter)
    voter._socket.sendall(b"\xff" * 8)
    for one in asked:
        assert one.is_over.wait(10)
        assert isinstance(one.error, UnavailableError)
        assert "ask again" in str(one.error)
    again = tiers.accept()
    later = tiers.ask(TierModel.CONFIRM)
    again.send(replace(PROVEN, number=question_from(again).number))
    assert later.result()[0].outcome is Outcome.YES


def test_a_question_without_votes_is_an_error_of_its_own_request(tiers: Tiers) -> None:
    voter = tiers.start(TierModel.CONFIRM)
    failed, other = tiers.ask(TierModel.CONFIRM, images=2), tiers.ask(TierModel.CONFIRM)
    numbers = [question_from(voter).number for _ in range(3)]
    voter.send(Unanswered(numbers[0], "out of memory in /secret/place"))
    voter.send(replace(PROVEN, number=numbers[2]))
    assert failed.is_over.wait(10)
    assert str(failed.error) == "the votes of the network failed on an image; see the server's log"
    assert other.result()[0].outcome is Outcome.YES


def test_a_voter_that_is_silent_costs_no_more_than_the_deadline(tiers: Tiers) -> None:
    """Nor memory: what it has not been sent by then, it is never sent."""
    voter = tiers.start(TierModel.CONFIRM, queue=100)
    start = time.monotonic()
    asked = [tiers.ask(TierModel.CONFIRM, seconds=0.3) for _ in range(50)]
    for one in asked:
        assert [answer.reason for answer in one.result()] == [TierReason.DEADLINE]
        assert one.result()[0].outcome is Outcome.UNDECIDED
    assert 0.3 <= time.monotonic() - start < 3
    last = tiers.ask(TierModel.CONFIRM)
    sent, given_up = list[int](), list[int]()
    while last.answers == []:
        message, _ = voter.receive()
        if isinstance(message, GiveUp):
            given_up.append(message.number)
        elif isinstance(message, VoteQuestion):
            sent.append(message.number)
            voter.send(replace(PROVEN, number=message.number))
            if message.number >= 50:
                break
    assert last.result()[0].outcome is Outcome.YES
    assert len(sent) < 10
    assert given_up == sent[:-1]


def test_deadline_of_some_images_leaves_the_others_their_answers(tiers: Tiers) -> None:
    voter = tiers.start(TierModel.CONFIRM)
    asked = tiers.ask(TierModel.CONFIRM, images=2, seconds=0.5)
    voter.send(replace(PROVEN, number=question_from(voter).number))
    assert [answer.outcome for answer in asked.result()] == [Outcome.YES, Outcome.UNDECIDED]


def test_whoever_leaves_frees_the_place_and_no_more_votes_are_taken(tiers: Tiers) -> None:
    voter = tiers.start(TierModel.CONFIRM, queue=1)
    gone = tiers.ask(TierModel.CONFIRM)
    number = question_from(voter).number
    with pytest.raises(OverloadedError):
        tiers.waiting[TierModel.CONFIRM].check_room(1, deadline_ms=5000)
    gone.has_left = True
    assert gone.is_over.wait(10)
    assert (gone.error, gone.answers) == (None, [])
    assert voter.receive()[0] == GiveUp(number)
    tiers.waiting[TierModel.CONFIRM].check_room(1, deadline_ms=5000)


def test_a_full_queue_says_what_it_found_and_when_to_ask_again(tiers: Tiers) -> None:
    voter = tiers.start(TierModel.CONFIRM, queue=3)
    first = tiers.ask(TierModel.CONFIRM, images=2)
    with pytest.raises(OverloadedError) as caught:
        tiers.ask(TierModel.CONFIRM, images=2)
    expected = (
        "queue is full: expected at most 3 images that wait for votes, found 2 and 2 more; ask again in about 5 s"
    )
    assert str(caught.value) == expected
    prove(voter, 2)
    first.result()
    second = tiers.ask(TierModel.CONFIRM, images=2)
    with pytest.raises(OverloadedError, match="ask again in about 1 s"):
        tiers.ask(TierModel.CONFIRM, images=2)
    prove(voter, 2)
    second.result()


def test_a_stream_tells_its_first_bound_and_those_that_prove_more(tiers: Tiers) -> None:
    voter = tiers.start(TierModel.CERTIFY_STREAM)
    asked = tiers.ask(TierModel.CERTIFY_STREAM)
    number = question_from(voter).number
    bounds = [(0.0, 0.4, 132), (0.0, 0.45, 164), (0.1, 0.6, 196), (0.1, 0.6, 228), (0.2, 0.7, 260)]
    for radius, p_lower, votes in bounds:
        voter.send(Finding(number, False, "tightening", votes, "grid", radius, p_lower, (1, 2)))
    voter.send(Finding(number, True, "proven", 1100, "grid", 0.2, 0.7, (1, 2)))
    asked.result()
    told = [answer for (answer,) in asked.answers]
    assert [answer.votes for answer in told] == [132, 196, 260, 1100]
    assert [answer.outcome.value for answer in told] == ["undecided", "yes", "yes", "yes"]
    assert [answer.label for answer in told] == [-1, 1, 1, 1]
    assert [answer.reason.value for answer in told] == ["tightening", "tightening", "tightening", "proven"]
    assert all(answer.proven_radius <= radius for answer, radius in zip(told, (0, 0.1, 0.2, 0.2), strict=True))


def test_a_stream_whose_time_is_over_keeps_what_is_proven(tiers: Tiers) -> None:
    voter = tiers.start(TierModel.CERTIFY_STREAM)
    asked = tiers.ask(TierModel.CERTIFY_STREAM, seconds=0.5)
    voter.send(Finding(question_from(voter).number, False, "tightening", 196, "grid", 0.1, 0.6, (1, 2)))
    (last,) = asked.result()
    assert (last.outcome, last.reason, last.votes) == (Outcome.YES, TierReason.DEADLINE, 196)


def test_whether_somebody_waits_is_never_asked_while_the_answer_is_sent_or_after(tiers: Tiers) -> None:
    """Triton dies of a segmentation fault where it is."""
    voter = tiers.start(TierModel.CONFIRM)
    for _ in range(100):
        asked = tiers.ask(TierModel.CONFIRM)
        number = question_from(voter).number
        time.sleep(0.005)
        voter.send(replace(PROVEN, number=number))
        asked.result()
        assert not asked.was_asked_meanwhile
        assert not asked.was_asked_afterwards


def test_a_question_that_was_late_before_it_was_asked_is_not_voted_on(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deadline passes while `add` is at work: the voter would take all n votes, and nobody would read of it."""
    voter = tiers.start(TierModel.CONFIRM)
    tiers.ask(TierModel.CONFIRM)
    first = question_from(voter)
    connection = tiers.waiting[TierModel.CONFIRM]._voter
    ask = connection.ask

    def ask_late(questions: Any) -> None:
        time.sleep(0.1)
        ask(questions)

    monkeypatch.setattr(connection, "ask", ask_late)
    late = tiers.ask(TierModel.CONFIRM, seconds=0)
    assert late.result()[0].reason is TierReason.DEADLINE
    tiers.ask(TierModel.CONFIRM)
    open_questions = set[int]()
    while first.number + 2 not in open_questions:
        message, _ = voter.receive()
        if isinstance(message, GiveUp):
            open_questions.discard(message.number)
        elif isinstance(message, VoteQuestion):
            open_questions.add(message.number)
    assert open_questions == {first.number + 2}
    voter.close()
