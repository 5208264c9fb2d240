"""A tier's connection to the process that votes: made again when that process was, and waited for at the start only."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from heatserve.certification.radius import Float32Array
from heatserve.serving.errors import UnavailableError
from heatserve.serving.unix_sockets import connected
from heatserve.serving.vote_protocol import Channel, Finding, GiveUp, ProtocolError, Unanswered, VoteQuestion

_RETRY_SECONDS = 0.1
_START_SECONDS = 2.0


class VoterConnection:
    """Questions go out and findings come in by threads of its own, so that a voter that is stopped holds nobody up.

    A question that is given up before it was sent is never sent, so that memory is bounded by the open questions.
    """

    def __init__(
        self,
        folder: Path,
        *,
        shape: tuple[int, ...],
        on_answer: Callable[[Finding | Unanswered], object],
        on_loss: Callable[[str], object],
    ) -> None:
        """Describe the connection; `start` makes it.

        Args:
            folder: where the voter listens.
            shape: [C, H, W] of the images.
            on_answer: called from a thread with all that the voter says.
            on_loss: called from that thread where the connection has ended, with what was found; no question that was
                asked before is answered any more.
        """
        self._folder = folder
        self._shape = shape
        self._on_answer = on_answer
        self._on_loss = on_loss
        self._channel: Channel | None = None
        self._is_stopped = False
        self._changed = threading.Condition()
        self._questions = dict[int, tuple[VoteQuestion, Float32Array]]()
        """Those that are not sent yet, in their order."""
        self._given_up = deque[int]()

    def start(self) -> None:
        """Begin; a voter that is there, as it is before the tiers start, takes questions then."""
        for target in (self._read, self._write):
            threading.Thread(target=target, name="heatserve-voter", daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._channel is not None, _START_SECONDS)

    def stop(self) -> None:
        """End the connection; what it had asked is not answered."""
        with self._changed:
            self._is_stopped = True
            channel = self._channel
            self._changed.notify_all()
        if channel:
            channel.close()

    def ask(self, questions: list[tuple[VoteQuestion, Float32Array]]) -> None:
        """Ask about images, soon.

        Raises:
            UnavailableError: the voter is not there.
        """
        with self._changed:
            if self._channel is None:
                raise UnavailableError("the process that votes is starting again; ask again in about 1 s")
            self._questions.update((question.number, (question, image)) for question, image in questions)
            self._changed.notify_all()

    def give_up(self, number: int) -> None:
        """Have the voter take no more votes for a question."""
        with self._changed:
            if self._questions.pop(number, None) is None and self._channel is not None:
                self._given_up.append(number)
                self._changed.notify_all()

    def _read(self) -> None:
        while not self._is_stopped:
            try:
                channel = Channel(connected(self._folder), shape=self._shape)
            except OSError:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_stopped, _RETRY_SECONDS)
                continue
            with self._changed:
                self._channel = channel
                self._changed.notify_all()
            found = self._receive(channel)
            with self._changed:
                self._channel = None
                self._questions.clear()
                self._given_up.clear()
            channel.close()
            self._on_loss(found)

    def _receive(self, channel: Channel) -> str:
        """Hand on what comes until nothing does any more; says why."""
        try:
            while True:
                message, _ = channel.receive()
                if not isinstance(message, Finding | Unanswered):
                    return f"a message that is no answer: {message}"
                self._on_answer(message)
        except ProtocolError as error:
            return str(error)
        except (EOFError, OSError) as error:
            return str(error) or "the end of the connection"

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_stopped or (self._channel and (self._questions or self._given_up))
                )
                if self._is_stopped:
                    return
                channel = self._channel
                message: VoteQuestion | GiveUp
                if self._given_up:
                    message, image = GiveUp(self._given_up.popleft()), None
                else:
                    message, image = self._questions.pop(next(iter(self._questions)))
            with suppress(OSError):  # the other thread sees it, too
                if channel is not None:
                    channel.send(message, image)
