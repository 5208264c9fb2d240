"""The process that takes the votes of all tiers of one model, at the lowest priority of the operating system.

`TritonServer` starts it, and the tiers' processes in Triton connect to it. Open questions share batches. Each image of
each request sees noise of its own, drawn from fresh entropy of the operating system; nothing is kept for another one.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue

import numpy as np

from heatserve.certification.confirming import Confirmation, confirmation, threshold
from heatserve.certification.errors import HeatserveError
from heatserve.certification.monte_carlo import ABSTAIN, Certificate, alpha_left
from heatserve.certification.noise import FLOAT32, GRID, NoiseSource
from heatserve.certification.polls import Failure, Polls, Test
from heatserve.certification.radius import Float32Array
from heatserve.certification.tightening import Bound, certificate, tightening
from heatserve.certification.voting import Classifier, each_by_itself
from heatserve.export.card import BASE_NAME, Card, read_card, read_verified
from heatserve.export.reference import read_reference
from heatserve.export.tiers import TierModel, TierReason
from heatserve.serving.errors import EXPLAINED
from heatserve.serving.observed.recorder import Recorder
from heatserve.serving.pixels import explain_pixels
from heatserve.serving.shadow.auditor import Auditor
from heatserve.serving.shadow.folder import AuditFolder
from heatserve.serving.unix_sockets import listening
from heatserve.serving.vote_protocol import (
    Channel,
    Finding,
    GiveUp,
    Message,
    ProtocolError,
    Sample,
    Unanswered,
    VoteQuestion,
)

_WAITING_MESSAGES = 64  # that came, and that nobody has looked at: whoever sends more of them waits
_UNREAD_MESSAGES = 4096  # that a tier's process has not taken: it is stopped, or gone

_PAUSE_SECONDS = 1.0
_COMPARED = 1 / 16  # of the batches: one of 32 costs 3 % more where a vote is taken once more

_Found = Confirmation | Certificate | Bound


class Voter:
    """The open questions about one base classifier, and the connections that they came over.

    One thread takes all votes; each connection has one that reads and one that writes, so that a process at its other
    end that is slow, silent or wrong holds nobody up.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        sigma: float,
        shape: tuple[int, ...],
        batch_size: int,
        most_open: int,
        auditor: Auditor | None = None,
    ) -> None:
        """Describe the voter.

        Args:
            classifier: the base classifier f.
            sigma: standard deviation of the noise, on the scale of the images.
            shape: [C, H, W] of the images.
            batch_size: most noisy images in one call of the classifier.
            most_open: questions that may be open at once; memory is bounded by it.
            auditor: takes votes while no question is open; None: nothing is audited.
        """
        self._sigma = sigma
        self._shape = shape
        self._most_open = most_open
        self._polls = Polls[tuple[_Asker, int], _Found](classifier, shape=shape, batch_size=batch_size)
        self._open = dict[tuple[_Asker, int], _OpenQuestion]()
        self._inbox = Queue[_Arrival](_WAITING_MESSAGES)
        self._auditor = auditor

    def serve(self, listener: socket.socket) -> None:
        """Answer questions for ever."""
        threading.Thread(target=self._accept, args=(listener,), name="heatserve-accept", daemon=True).start()
        while True:
            self._look_at_inbox()
            if not self._open and self._auditor:
                self._auditor.step()
            for said in self._polls.step():
                asker, number = said.key
                if isinstance(said, Failure):
                    log(f"question: expected votes, found {type(said.error).__name__}: {said.error}")
                    asker.tell(Unanswered(number, "the votes failed"))
                else:
                    asker.tell(self._open[said.key].finding(number, said.found, is_final=said.is_final))
                if isinstance(said, Failure) or said.is_final:
                    del self._open[said.key]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError as error:  # no descriptor is left, for now
                log(f"connection: {error}")
                time.sleep(_PAUSE_SECONDS)
            else:
                _Asker(Channel(connection, shape=self._shape), self._inbox)

    def _look_at_inbox(self) -> None:
        """Take what came; where no question is open, and nothing is audited, wait for one."""
        for _ in range(_WAITING_MESSAGES):
            is_idle = not self._open and not (self._auditor and self._auditor.is_busy)
            try:
                arrival = self._inbox.get(block=is_idle)
            except Empty:
                return
            self._take(arrival)

    def _take(self, arrival: _Arrival) -> None:
        asker, message, image = arrival.asker, arrival.message, arrival.image
        if isinstance(message, VoteQuestion) and image is not None and (asker, message.number) not in self._open:
            self._begin(asker, message, image)
        elif isinstance(message, Sample) and image is not None:
            if self._auditor:
                self._auditor.take(message, image)
        elif isinstance(message, GiveUp):
            self._give_up((asker, message.number))
        else:  # the connection has ended, or what came over it makes no sense
            asker.close()
            for key in [key for key in self._open if key[0] is asker]:
                self._give_up(key)

    def _give_up(self, key: tuple[_Asker, int]) -> None:
        self._polls.close(key)
        self._open.pop(key, None)

    def _begin(self, asker: _Asker, question: VoteQuestion, image: Float32Array) -> None:
        try:
            problem = explain_pixels(image[None])
            if problem or len(self._open) >= self._most_open:
                raise HeatserveError(problem or f"queue: expected at most {self._most_open} open questions")
            noise: NoiseSource = GRID if GRID.suits(image) else FLOAT32
            fill = noise.copies(image, sigma=self._sigma, entropy=np.random.SeedSequence())
            test = _test(question, noise=noise, sigma=self._sigma, shape=self._shape)
        except HeatserveError as error:
            log(f"question: {error}")
            asker.tell(Unanswered(question.number, str(error)))
            return
        key = asker, question.number
        self._polls.open(key, fill, test)
        self._open[key] = _OpenQuestion(question, noise.key)


@dataclass(frozen=True)
class _OpenQuestion:
    question: VoteQuestion
    sampling: str

    def finding(self, number: int, found: _Found, *, is_final: bool) -> Finding:
        """What a test found, as the tier is told."""
        if isinstance(found, Confirmation):
            return Finding(number, is_final, found.reason.value, found.votes, self.sampling)
        votes = found.votes if isinstance(found, Bound) else self.question.n0 + self.question.n
        is_proven = found.radius > 0 and not (isinstance(found, Certificate) and found.label == ABSTAIN)
        reason = TierReason.PROVEN if is_proven else TierReason.VOTES
        if not is_final:
            reason = TierReason.TIGHTENING
        return Finding(
            number,
            is_final,
            reason.value,
            votes,
            self.sampling,
            radius=found.radius if is_proven else 0.0,
            p_lower=found.p_lower,
            classes=found.classes,
        )


@dataclass(frozen=True)
class _Arrival:
    asker: _Asker
    message: Message | None
    """None: the connection has ended."""
    image: Float32Array | None = None


class _Asker:
    """A connection to a tier's process, with its threads."""

    def __init__(self, channel: Channel, inbox: Queue[_Arrival]) -> None:
        self._channel = channel
        self._inbox = inbox
        self._outbox = Queue[Message | None](_UNREAD_MESSAGES)
        for target in (self._read, self._write):
            threading.Thread(target=target, name="heatserve-asker", daemon=True).start()

    def tell(self, message: Message | None) -> None:
        """Send a message soon; a process that does not take them loses its connection. None ends the thread."""
        try:
            self._outbox.put_nowait(message)
        except Full:
            self.close()

    def close(self) -> None:
        """End the connection, of which the thread that reads tells."""
        self._channel.close()

    def _read(self) -> None:
        try:
            while True:
                self._inbox.put(_Arrival(self, *self._channel.receive()))
        except ProtocolError as error:
            log(f"connection: {error}")
        except (EOFError, OSError):
            pass
        self._inbox.put(_Arrival(self, None))
        self.tell(None)

    def _write(self) -> None:
        with suppress(OSError):  # nobody is there any more, which the other thread sees, too
            while (message := self._outbox.get()) is not None:
                self._channel.send(message)
        self.close()


def _test(
    question: VoteQuestion, *, noise: NoiseSource, sigma: float, shape: tuple[int, ...]
) -> Test[Confirmation] | Test[Certificate] | Test[Bound]:
    """The sequential test that answers a question.

    Raises:
        HeatserveError: the question means nothing.
    """
    votes = question.n + (0 if question.kind == TierModel.CONFIRM else question.n0)
    left = alpha_left(question.alpha, shape=shape, votes=votes, sigma=sigma, noise=noise)
    if question.kind == TierModel.CONFIRM:
        p = threshold(question.radius, sigma=sigma)
        return confirmation(label=question.label, p=p, n=question.n, alpha=left)
    kind = certificate if question.kind == TierModel.CERTIFY else tightening
    return kind(sigma=sigma, n0=question.n0, n=question.n, alpha=left, top_k=question.top_k)


def log(line: str) -> None:
    """Write a line into the server's log."""
    sys.stderr.write(f"heatserve voter: {line}\n")
    sys.stderr.flush()


def open_base(version_dir: Path, *, threads: int) -> tuple[Card, Classifier]:
    """The card of a version and its base classifier on the CPU; what runs are the bytes that the card names.

    Raises:
        CardError: the file is not the one of the card.
    """
    import onnxruntime as ort

    card = read_card(version_dir)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for pool in ("intra", "inter"):
        options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
    graph = read_verified(version_dir / BASE_NAME, card.base_sha256)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return card, each_by_itself(lambda images: session.run(["logits"], {"image": images})[0], share=_COMPARED)


def _auditor(version_dir: Path, card: Card, classifier: Classifier, *, batch_size: int) -> Auditor | None:
    """The shadow audit, where the operator asks for it and the card promises something.

    Raises:
        CardError: a reference that is none, or belongs to another graph.
    """
    folder = AuditFolder.of_environment()
    if folder is None or card.calibration is None:
        return None
    reference = read_reference(version_dir, card)
    if reference is None:
        log(f"audit of {card.model}: no reference.json: inputs are not compared; write it with `heatserve reference`")
    return Auditor(
        card,
        card.calibration,
        classifier,
        reference=reference,
        folder=folder,
        recorder=Recorder.of_environment(),
        batch_size=batch_size,
        log=log,
    )


def step_back(cores: int) -> None:
    """Have all threads of this process run only where nothing else wants to: SCHED_IDLE, and nice 19.

    Where the kernel gives each session of processes a share of its own (autogroup), that gets the least share. All
    threads keep to the last of the allowed cores: single passes beside them are quicker then (docs/decisions.md).

    Args:
        cores: how many threads compute.
    """
    allowed = sorted(os.sched_getaffinity(0))[-cores:]
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), allowed)
        try:
            os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
        except OSError as error:  # a sandbox; what follows is at least the lowest priority of the usual policy
            log(f"priority: expected SCHED_IDLE, found that it is refused ({error.strerror}); goes on with nice 19")
        os.setpriority(os.PRIO_PROCESS, int(thread), 19)
    with suppress(OSError):  # no such kernel
        Path("/proc/self/autogroup").write_text("19")


def main(arguments: list[str]) -> None:
    """Vote: VERSION_DIR SOCKET_FOLDER BATCH_SIZE THREADS MOST_OPEN. It loads at the usual priority, then steps back."""
    version_dir, folder = map(Path, arguments[:2])
    batch_size, threads, most_open = map(int, arguments[2:])
    try:
        card, classifier = open_base(version_dir, threads=threads)
        shape = card.input_shape
        classifier(np.zeros((batch_size, *shape), np.float32))
        GRID.copies(np.zeros(shape, np.float32), sigma=card.sigma, entropy=np.random.SeedSequence())  # makes its table
        auditor = _auditor(version_dir, card, classifier, batch_size=batch_size)
    except Exception as error:
        sys.stderr.write(f"error: {version_dir.parent.name}: {error}\n")
        sys.exit(EXPLAINED)
    voter = Voter(
        classifier,
        sigma=card.sigma,
        shape=shape,
        batch_size=batch_size,
        most_open=most_open,
        auditor=auditor,
    )
    gc.freeze()
    step_back(threads)
    voter.serve(listening(folder))
