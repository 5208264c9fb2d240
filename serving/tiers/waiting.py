"""The requests of a tier whose images wait for votes: few enough, answered in time, given up where nobody waits."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Protocol

from heatserve.certification.radius import Float32Array
from heatserve.export.tiers import TierModel, TierReason
from heatserve.serving.errors import OverloadedError, ServingError, UnavailableError
from heatserve.serving.tiers.answering import ImageAnswer, with_finding
from heatserve.serving.tiers.questions import CheckedQuestion
from heatserve.serving.tiers.unanswered import UnansweredCount
from heatserve.serving.tiers.voter_connection import VoterConnection
from heatserve.serving.vote_protocol import Finding, ProtocolError, Unanswered, VoteQuestion

_LOOK_SECONDS = 0.01
_CALLERS_A_LOOK = 4  # whether one is gone, Triton must be asked
_PACE_SAMPLES = 64  # the last images that were answered


class Caller(Protocol):
    """Who waits for the answer to a request."""

    def answer(self, answers: Sequence[ImageAnswer], *, is_final: bool) -> None:
        """Send the answers to all images; a stream's request has several, of which the last is final."""

    def fail(self, error: ServingError | None) -> None:
        """Send an error, or, where it is None, end the request of a caller that is gone."""

    def is_gone(self) -> bool:
        """Whether nobody waits any more."""


@dataclass(eq=False)
class TierRequest:
    """A request of N images, until it is answered."""

    caller: Caller
    question: CheckedQuestion
    deadline: float
    """By `time.monotonic`."""
    answers: list[ImageAnswer]
    """What is answered to each image if the deadline passes now."""
    numbers: set[int] = field(default_factory=set)
    """Of its questions that are open."""
    waits: bool = False
    """Whether it is answered later than Triton knows of."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Of the two below, and of what is sent."""
    is_answered: bool = False
    is_begun: bool = False
    """Whether a first answer of several was sent."""


class WaitingRequests:
    """The open questions of one tier, by the numbers under which the voter knows them.

    Requests come from one thread; findings, deadlines and callers that have gone are seen by others.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: TierModel,
        shape: tuple[int, ...],
        classes: int,
        queue: int,
        log: Callable[[str], object],
    ) -> None:
        """Nothing is open; `start` begins.

        Args:
            folder: where the voter listens.
            kind: which tier.
            shape: [C, H, W] of the images that votes are taken on.
            classes: K, how many there are.
            queue: the most images that may wait at once.
            log: takes what the server should know, and no caller.
        """
        self._kind = kind
        self._classes = classes
        self._queue = queue
        self._log = log
        self._numbers = count()
        self._open = dict[int, tuple[TierRequest, int]]()
        self._changed = threading.Condition()
        self._is_stopped = False
        self._ended = deque[float](maxlen=_PACE_SAMPLES)
        self._unanswered = UnansweredCount(folder, kind.value)
        self._voter = VoterConnection(folder, shape=shape, on_answer=self._take, on_loss=self._lose)

    def start(self) -> None:
        """Connect to the voter, and keep time."""
        self._voter.start()
        threading.Thread(target=self._keep_time, name="heatserve-time", daemon=True).start()

    def stop(self) -> None:
        """Wait until all that is open is answered, and end the threads."""
        with self._changed:
            while self._open:
                self._changed.wait(_LOOK_SECONDS)
            self._is_stopped = True
            self._changed.notify_all()
        self._voter.stop()

    def check_room(self, images: int, *, deadline_ms: int) -> None:
        """Do nothing where so many more images may wait.

        Raises:
            OverloadedError: they may not. Says what was found and when to ask again.
        """
        with self._changed:
            found = len(self._open)
            seconds = self._seconds_for(images, deadline_ms)
        if found + images > self._queue:
            raise OverloadedError(
                f"queue is full: expected at most {self._queue} images that wait for votes, found {found} and "
                f"{images} more; ask again in about {seconds} s"
            )

    def _seconds_for(self, images: int, deadline_ms: int) -> int:
        """After how many seconds that many images will have been answered, as it went lately."""
        most = max(1, math.ceil(deadline_ms / 1000))
        if not self._ended:
            return most
        pace = (time.monotonic() - self._ended[0]) / len(self._ended)
        return min(max(1, math.ceil(pace * images)), most)

    def add(self, request: TierRequest, images: dict[int, Float32Array]) -> None:
        """Have votes taken for some images of a request, by their indices, and answer it; at once where there are none.

        Raises:
            OverloadedError: see `check_room`.
        """
        self.check_room(len(images), deadline_ms=request.question.deadline_ms)
        asked = [(self._vote_question(request, index), image) for index, image in images.items()]
        if not asked:
            self._finish(request)
            return
        request.waits = True
        self._unanswered.add(1)
        with self._changed:
            for index, (question, _) in zip(images, asked, strict=True):
                self._open[question.number] = request, index
                request.numbers.add(question.number)
            self._changed.notify_all()
        try:
            self._voter.ask(asked)
        except UnavailableError as error:
            self._fail(request, error)
        if request.is_answered:  # before the voter was asked: it had no time left, or a voter ended
            for question, _ in asked:
                self._voter.give_up(question.number)

    def _vote_question(self, request: TierRequest, index: int) -> VoteQuestion:
        question, number = request.question, next(self._numbers)
        if not self._kind.asks_radius:
            numbers = {"n0": question.n0, "top_k": question.top_k}
            return VoteQuestion(number, self._kind.value, question.alpha, question.n, **numbers)
        return VoteQuestion(
            number,
            TierModel.CONFIRM.value,
            question.alpha,
            question.n,
            label=request.answers[index].label,
            radius=question.radius,
        )

    def _take(self, message: Finding | Unanswered) -> None:
        """What the voter says of a question."""
        with self._changed:
            request, index = self._open.get(message.number, (None, 0))
        if request is None:
            return  # it was given up meanwhile
        if isinstance(message, Unanswered):
            self._fail(request, ServingError("the votes of the network failed on an image; see the server's log"))
            return
        with request.lock:
            former = request.answers[index]
            answer: ImageAnswer | None = None
            try:
                answer = with_finding(former, message, request.question, self._kind, classes=self._classes)
            except ProtocolError as error:
                self._log(str(error))
            else:
                request.answers[index] = answer
        if answer is None:
            self._fail(request, ServingError("the votes of the network make no sense; see the server's log"))
        elif message.is_final:
            self._end_question(request, message.number)
        elif self._kind is TierModel.CERTIFY_STREAM:
            self._tell(request, is_news=answer.proven_radius > former.proven_radius)

    def _end_question(self, request: TierRequest, number: int) -> None:
        with self._changed:
            self._open.pop(number, None)
            request.numbers.discard(number)
            self._ended.append(time.monotonic())
            is_last = not request.numbers
        if is_last:
            self._finish(request)

    def _tell(self, request: TierRequest, *, is_news: bool) -> None:
        """Send a stream's answer that is not its last one: the first, and those that prove more than the one before."""
        with request.lock:
            if not request.is_answered and (is_news or not request.is_begun):
                request.is_begun = True
                request.caller.answer(request.answers, is_final=False)

    def _finish(self, request: TierRequest) -> None:
        """Send the answers as they are: all questions have ended, or the deadline has passed."""
        self._close(request)
        with request.lock:
            if not request.is_answered:
                request.is_answered = True
                request.caller.answer([*map(_at_the_end, request.answers)], is_final=True)
                self._unanswered.add(-1 if request.waits else 0)

    def _fail(self, request: TierRequest, error: ServingError | None) -> None:
        self._close(request)
        with request.lock:
            if not request.is_answered:
                request.is_answered = True
                request.caller.fail(error)
                self._unanswered.add(-1 if request.waits else 0)

    def _close(self, request: TierRequest) -> None:
        """Give up what is open of a request, and free its places."""
        with self._changed:
            numbers = [*request.numbers]
            request.numbers.clear()
            for number in numbers:
                self._open.pop(number, None)
        for number in numbers:
            self._voter.give_up(number)

    def _lose(self, found: str) -> None:
        """The voter has ended, or says what makes no sense: of what it was asked, nothing will be answered."""
        with self._changed:
            if self._is_stopped:
                return
            requests = dict.fromkeys(request for request, _ in self._open.values())
        self._log(f"expected answers of the process that votes, found {found}")
        for request in requests:
            self._fail(request, UnavailableError("the process that votes ended, and is started again; ask again"))

    def _let_go(self, request: TierRequest) -> None:
        """Give a request up where nobody waits for it.

        Triton 2.51 dies of a segmentation fault where it is asked about a request whose last answer comes meanwhile.
        """
        with request.lock:
            is_left = not request.is_answered and request.caller.is_gone()
        if is_left:
            self._fail(request, None)

    def _keep_time(self) -> None:
        """Answer what is late, and give up what nobody waits for."""
        turn = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopped or self._open)
                if self._is_stopped:
                    return
                requests = [*dict.fromkeys(request for request, _ in self._open.values())]
            for request in requests:
                if request.deadline <= time.monotonic():
                    self._finish(request)
            for place in range(turn, turn + min(_CALLERS_A_LOOK, len(requests))):
                self._let_go(requests[place % len(requests)])
            turn += _CALLERS_A_LOOK
            time.sleep(_LOOK_SECONDS)


def _at_the_end(answer: ImageAnswer) -> ImageAnswer:
    """The answer after which no other one comes."""
    return replace(answer, reason=TierReason.DEADLINE) if answer.reason is TierReason.TIGHTENING else answer
