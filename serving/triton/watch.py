"""Whether a Triton that says it is ready answers: its processes are looked at, and each model is asked.

Triton 2.51 never starts the process of a model instance again, and goes on to say that it is ready. Where such a
process is silent for a second while a request waits for it, Triton gives it up, and the memory that both share is out
of step: requests fail for good, are answered without outputs, or Triton itself dies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heatserve.export.tiers import Mode, TierLimits, TierModel
from heatserve.serving.client.access import Access
from heatserve.serving.client.connection import Connection
from heatserve.serving.client.failures import GIVEN_UP, UNLOADED
from heatserve.serving.client.tier_answers import read_tier_answers
from heatserve.serving.client.tier_questions import TierQuestion, TierSpec
from heatserve.serving.errors import OverloadedError, ServingError, TooLateError, UnavailableError
from heatserve.serving.observed.probes import probe_id
from heatserve.serving.pixels import Pixels
from heatserve.serving.triton.processes import Process, ending, triton_and_instances

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion

LOOK_SECONDS = 0.2
STOPPED_LOOKS = 4  # in a row: a process is stopped for 0.6 to 0.8 s; at 1 s Triton gives it up
ASK_SECONDS = 1.0
DEADLINE_SECONDS = 5.0
STRIKES = 4  # in a row: a client that fills the shared memory once may take others' answers along
_ANY_RADIUS = 0.001
_IDLE_SHARE = 0.01  # of a core: what waits for nothing but its turn gets more, and an idle process uses none


@dataclass(frozen=True, eq=False)
class Question:
    """A question that a model, or a tier, must be able to answer: one valid image, and the number of its classes."""

    model: str
    image: Pixels
    classes: int
    tier: TierModel | None = None

    def ask(self, connection: Connection) -> None:
        """Ask, and read the answer. A tier is given no time, so that it takes no votes and answers undecided.

        Raises:
            ServingError: there is no answer, or not that of such a model.
        """
        if self.tier is None:
            connection.infer(self.model, self.image, classes=self.classes, request_id=probe_id())
            return
        limits = TierLimits(most_alpha=1.0)
        spec = TierSpec(self.model, self.tier, max_batch_size=1, promise=None, limits=limits)
        radius = {"radius": _ANY_RADIUS} if self.tier.asks_radius else {}
        answer = connection.ask(spec, self.image, {"deadline_ms": 0, **radius}, request_id=probe_id())
        question = TierQuestion(self.tier, radius=radius.get("radius"), mode=Mode.CLAIMED)
        read_tier_answers(answer, question, images=1, classes=self.classes, most_alpha=limits.most_alpha, names={})


def question_of(model: ModelVersion, model_dir: Path) -> Question:
    """The question for a model as Triton is configured for it: its warm-up image, or a black one.

    Args:
        model: which is served.
        model_dir: its folder, as Triton sees it.
    """
    from heatserve.export.repository.layout import CONFIG_NAME
    from heatserve.export.repository.settings import WARM_UP_PATH, WARM_UP_SIDE, read_config

    dims = read_config(model_dir / CONFIG_NAME).input[0].dims
    shape = (1, *(size if size > 0 else WARM_UP_SIDE for size in dims))
    pixels: NDArray[Any] = np.zeros(shape, np.uint8 if model.card.input_type == "UINT8" else np.float32)
    path = model_dir / WARM_UP_PATH
    if path.is_file() and path.stat().st_size == pixels.nbytes:
        pixels = np.frombuffer(path.read_bytes(), pixels.dtype).reshape(shape)
    return Question(model.name, pixels, len(model.card.class_names))


def tier_questions(question: Question, kinds: Iterable[TierModel]) -> list[Question]:
    """The questions for the tiers beside a model, from its own; a stream is looked at only."""
    asked = (kind for kind in kinds if kind is not TierModel.CERTIFY_STREAM)
    return [replace(question, model=kind.beside(question.model), tier=kind) for kind in asked]


def has_unloaded(connection: Connection, model: str) -> bool:
    """Whether a Triton that ends has answered all requests, and has let go of this model."""
    try:
        connection.spec(model)
    except UnavailableError as error:
        return UNLOADED in str(error)
    except ServingError:
        pass
    return False


class Watch:
    """Threads that look at the processes of a Triton, and ask its models, until something is wrong or it is stopped."""

    def __init__(
        self,
        triton: int,
        way: Access | str,
        questions: Sequence[Question],
        on_problem: Callable[[str], object],
        *,
        replaced: Collection[Process] = (),
    ) -> None:
        """Describe the watch of a Triton whose models are ready.

        Args:
            triton: its process.
            way: to its gRPC: how to get in, or its URL.
            questions: one for each model.
            on_problem: called at most once, from a thread, with what was expected and found.
            replaced: processes of versions that were replaced, which end once their requests are answered.
        """
        self._processes = tuple(process for process in triton_and_instances(triton) if process not in replaced)
        self._replaced = frozenset[str]()
        self._way = way
        self._on_problem = on_problem
        self._ended = threading.Event()
        self._one_problem = threading.Lock()
        self._threads = [threading.Thread(target=self._look, name="heatserve-watch", daemon=True)]
        for question in questions:
            name = f"heatserve-ask-{question.model}"
            self._threads.append(threading.Thread(target=self._ask, args=(question,), name=name, daemon=True))

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def allow_to_end(self, models: Collection[str]) -> None:
        """The processes of these models may end from now on: others take their place."""
        self._replaced = frozenset(models)

    def stop(self) -> None:
        """Report nothing from now on; a question that is still out there ends with the server, or at its deadline."""
        with self._one_problem:
            self._ended.set()

    def _report(self, problem: str) -> None:
        with self._one_problem:
            if not self._ended.is_set():
                self._ended.set()
                self._on_problem(problem)

    def _look(self) -> None:
        triton, *instances = self._processes
        stopped = dict.fromkeys(self._processes, 0)
        while not self._ended.wait(LOOK_SECONDS):
            looks = {process: process.look() for process in (*instances, triton)}  # it last: they end with it
            if looks[triton].is_dead:
                return  # its parent sees that, and says how
            for process, look in looks.items():
                if process.model in self._replaced:
                    continue
                stopped[process] = stopped[process] + 1 if look.is_stopped else 0
                if look.status:  # with 0, Triton ended it since it ends itself; and if not, the model does not answer
                    self._report(_problem(process, f"{ending(look.status)}; Triton does not start it again"))
                elif stopped[process] >= STOPPED_LOOKS:
                    self._report(_problem(process, f"is stopped (state {look.state})"))

    def _ask(self, question: Question) -> None:
        strikes = 0
        with closing(Connection(self._way, timeout=DEADLINE_SECONDS)) as connection:
            while not self._ended.wait(ASK_SECONDS / (2 if strikes else 1)):
                found = self._fault(connection, question)
                strikes = strikes + 1 if found else 0
                if strikes >= STRIKES or GIVEN_UP in found:
                    self._report(f"{question.model}: expected an answer to a valid image, found: {found}")

    def _fault(self, connection: Connection, question: Question) -> str:
        """What is wrong with the answer to a question; nothing where the model is merely busy, or Triton ends."""
        triton, *instances = self._processes
        runners = [process for process in instances if process.model == question.model] or [triton]
        before = [process.look() for process in runners]
        try:
            question.ask(connection)
        except TooLateError:
            now = [process.look() for process in runners]
            used = sum(look.seconds for look in now) - sum(look.seconds for look in before)
            if used < _IDLE_SHARE * DEADLINE_SECONDS and not any(look.state == "D" for look in now):
                return f"no answer in {DEADLINE_SECONDS:g} s, in which its processes did nothing"
        except OverloadedError:  # the operator's limit to its queue
            pass
        except UnavailableError as error:  # Triton ends, or has given up an instance
            return str(error) if GIVEN_UP in str(error) else ""
        except ServingError as error:
            return str(error)
        return ""


def _problem(process: Process, found: str) -> str:
    if not process.model:
        return f"expected Triton to run, found that its process {process.pid} {found}"
    return (
        f"{process.model}: expected a running process of the model instance {process.instance}, found that the process "
        f"{process.pid} {found}"
    )
