"""The server that `heatserve serve` runs: its parts composed, kept up, and ended without a lost request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from heatserve.serving.shadow.folder import AuditSettings
from heatserve.serving.supervised.failures import USUAL_RULE, RestartRule
from heatserve.serving.supervised.lives import Lives
from heatserve.serving.supervised.state import IS_ENDING, IS_STARTING, Event, State
from heatserve.serving.triton.endpoints import STANDARD_PORTS, Endpoints
from heatserve.serving.triton.server import TritonServer

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.export.signing.trust import Trust


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """How a server is kept up, and ended."""

    restart: RestartRule | None = USUAL_RULE
    """When what failed is started again; None: never, the server ends and says why."""
    grace: float = 0.0
    """Seconds at the end in which requests are still answered, and the server says that it is not ready."""


KEPT_UP = Supervision()
"""What failed is started again; at the end, no request is waited for that was not sent yet."""


class Server:
    """A server that is kept up, as a context manager: a Triton with its voters, and another one where that fails.

    All of it is started, watched and started again by threads of its own, while the context is open.

    Attributes:
        endpoints: where it is served, free ports filled in; the same for all of its life.
    """

    endpoints: Endpoints

    def __init__(
        self,
        repository: Path | str,
        *,
        models: Sequence[str] = (),
        endpoints: Endpoints = STANDARD_PORTS,
        backend_directory: Path | str | None = None,
        trust: Trust | None = None,
        audit: AuditSettings | None = None,
        supervision: Supervision = KEPT_UP,
        on_event: Callable[[Event], object] = lambda _: None,
    ) -> None:
        """Describe the server; entering the context starts it.

        Args:
            repository: a folder of exported models; the cards are verified at each start.
            models: names of those to serve; none: all.
            endpoints: where to listen.
            backend_directory: Triton's backends, where they are not beside it.
            trust: keys, one of which must have signed each model; None: it need not be signed.
            audit: which share of the answers is judged by Certify, and what follows; None: none.
            supervision: how it is kept up and ended.
            on_event: called, from a thread, where something failed or is up again.
        """
        self._repository = repository
        self._names = models
        self._wanted = endpoints
        self._backend_directory = backend_directory
        self._trust = trust
        self._audit = audit
        self._supervision = supervision
        self._state, self._telling = IS_STARTING, threading.Lock()
        self._hurried = threading.Event()
        self._lives = Lives(self._new_triton, rule=supervision.restart, on_state=self._tell, on_event=on_event)

    def __enter__(self) -> Server:
        """Verify the cards, start everything and wait until every model is ready.

        Raises:
            CardError: a model without a card that matches its graphs.
            ServingError: no models, no usable Triton, a port that is taken, or Triton failed; names its log.
        """
        try:
            self.endpoints = self._lives.start().endpoints
        except BaseException:  # a Ctrl-C, too
            self._lives.hurry()
            self._lives.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say that it is not ready, go on for the grace, let requests in flight finish, and end everything."""
        try:
            self._tell(IS_ENDING)
            if not self._lives.ended.is_set():
                self._hurried.wait(self._supervision.grace)
            self._lives.stop()
        except BaseException:  # another Ctrl-C
            self._lives.hurry()
            self._lives.stop()
            raise

    @property
    def triton(self) -> TritonServer:
        """The Triton that answers now, or answered last."""
        assert self._lives.triton is not None, "the context is not entered"
        return self._lives.triton

    @property
    def models(self) -> tuple[ModelVersion, ...]:
        """The versions served, cards verified."""
        return self.triton.models

    @property
    def log(self) -> Path:
        """The newest of what the Triton writes that answers now."""
        return self.triton.log

    @property
    def state(self) -> State:
        """Whether it answers now."""
        return self._state

    def wait(self) -> None:
        """Block until it ends by itself: something failed that is not started again, or failed too often.

        Raises:
            HeatserveError: it did. Says why.
        """
        self._lives.ended.wait()
        if self._lives.error is not None:
            raise self._lives.error

    def _new_triton(self) -> TritonServer:
        before = self._lives.triton  # callers know its ports, and its versions were tried
        return TritonServer(
            self._repository,
            models=self._names,
            versions={model.name: model.version for model in before.models} if before else None,
            endpoints=before.endpoints if before else self._wanted,
            backend_directory=self._backend_directory,
            trust=self._trust,
            audit=self._audit,
        )

    def _tell(self, state: State) -> None:
        with self._telling:
            if self._state is not IS_ENDING:
                self._state = state
