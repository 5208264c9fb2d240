"""The server that `heatserve serve` runs: front, Triton and voters, kept up, and ended without a lost request."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, get_args

from heatserve.serving.front.options import FrontOptions
from heatserve.serving.front.process import Front, FrontSockets
from heatserve.serving.front.state import FrontState, state_of_triton
from heatserve.serving.observed.families import READY, RESTARTS, SWITCHES
from heatserve.serving.observed.logs import EventLog, Level
from heatserve.serving.observed.recorder import FOLDER_VARIABLE, Recorder
from heatserve.serving.shadow.folder import AuditSettings
from heatserve.serving.supervised.alarms import AlarmWatch
from heatserve.serving.supervised.events import Cause, Event, Kept, Recovery, Restart
from heatserve.serving.supervised.failures import USUAL_RULE, RestartRule
from heatserve.serving.supervised.kept_front import KeptFront
from heatserve.serving.supervised.kept_triton import KeptTriton
from heatserve.serving.switching.switcher import Switch, SwitchOutcome
from heatserve.serving.triton.bounded_log import BoundedLog
from heatserve.serving.triton.debris import explained_writes, server_folder
from heatserve.serving.triton.endpoints import STANDARD_PORTS, Endpoints, Service, behind_front
from heatserve.serving.triton.installation import find_triton
from heatserve.serving.triton.server import TritonServer
from heatserve.serving.triton.versions import version_of

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.export.signing.trust import Trust

_OF_FRONT: frozenset[Service] = frozenset({"http", "metrics"})
_RESTARTING = "a model did not answer, and the server starts it again"
_ENDING = "the server is about to end"


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """How a server is kept up, and ended."""

    restart: RestartRule | None = USUAL_RULE
    """When what failed is started again; None: never, the server ends and says why."""
    grace: float = 0.0
    """Seconds at the end in which requests are still answered, and the server says that it is not ready."""


KEPT_UP = Supervision()
"""What failed is started again; at the end, no request is waited for that was not sent yet."""
NO_OPTIONS = FrontOptions()
"""No TLS, no tokens and the usual limits."""


class Server:
    """A server that is kept up, as a context manager: a front for HTTP, and behind it a Triton with its voters.

    All of it is started, watched and started again by threads of its own, while the context is open.

    Attributes:
        endpoints: where it is served, free ports filled in, the same for all of its life: HTTP and metrics by the
            front, gRPC by Triton.
        repository: the folder of exported models.
        folder: for this user only, and for all of its life.
    """

    endpoints: Endpoints
    folder: Path

    def __init__(
        self,
        repository: Path | str,
        *,
        models: Sequence[str] = (),
        endpoints: Endpoints = STANDARD_PORTS,
        triton_http: int | None = None,
        front: FrontOptions = NO_OPTIONS,
        backend_directory: Path | str | None = None,
        trust: Trust | None = None,
        audit: AuditSettings | None = None,
        supervision: Supervision = KEPT_UP,
        log_file: int | None = None,
        on_event: Callable[[Event], object] = lambda _: None,
    ) -> None:
        """Describe the server; entering the context starts it.

        Args:
            repository: a folder of exported models; the cards are verified at each start.
            models: names of those to serve; none: all.
            endpoints: where front and gRPC listen.
            triton_http: a port for Triton's own HTTP beside the front's; None: for nobody.
            front: TLS, tokens and limits of the front; its TLS is that of gRPC, too, where other machines reach it.
            backend_directory: Triton's backends, where they are not beside it.
            trust: keys, one of which must have signed each model; None: it need not be signed.
            audit: which share of the answers is judged by Certify, and what follows; None: none.
            supervision: how it is kept up and ended.
            log_file: a descriptor for lines of JSON (`observed.logs`); None: none.
            on_event: called, from a thread, where something failed, is up again, or the audit raised an alarm.
        """
        self.repository = Path(repository)
        self._names = models
        self._wanted = endpoints
        self._triton_http = triton_http
        self._front_options = front
        self._backend_directory = Path(backend_directory) if backend_directory else None
        self._trust = trust
        self._audit = audit
        self._supervision = supervision
        self._log_file = log_file
        self._on_event = on_event
        self._telling, self._is_ending = threading.Lock(), False
        self._state = FrontState()
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> Server:
        """Verify the cards, start everything and wait until every model is ready.

        Raises:
            CardError: a model without a card that matches its graphs.
            ServingError: no models, no usable Triton, a port that is taken, or Triton failed; names its log.
        """
        self._front_options.check()
        wanted = self._wanted.resolved()
        with ExitStack() as cleanup:
            self.folder, lock = cleanup.enter_context(server_folder())
            with explained_writes():
                self.metrics.mkdir()
                log = BoundedLog(self.folder / "front.log")
            cleanup.enter_context(log.writer)
            self._count(cleanup)
            if self._audit is not None:
                alarms = AlarmWatch(self._audit_folder, self._happened)
                cleanup.callback(alarms.stop)
                alarms.start()
            sockets = FrontSockets.bound(wanted.host, http=wanted.http, metrics=wanted.metrics)
            cleanup.callback(sockets.close)
            self._kept_triton = self._triton_kept(wanted)
            self._kept_front = self._front_kept(sockets, log.writer, lock)
            cleanup.callback(self._end)
            self._kept_triton.start()
            self._kept_front.start()
            grpc = self._kept_triton.wait_until_ready().endpoints
            self.endpoints = replace(
                wanted,
                http=sockets.http_port,
                grpc=grpc.grpc,
                metrics=sockets.metrics_port,
                local=grpc.local & {"grpc"},
                encrypted=grpc.encrypted | (frozenset() if self._front_options.tls_cert is None else _OF_FRONT),
            )
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say that it is not ready, go on for the grace, let requests in flight finish, and end everything."""
        self._cleanup.close()

    @property
    def metrics(self) -> Path:
        """The folder in which its processes count (`heatserve.serving.observed.page`)."""
        return self.folder / "metrics"

    @property
    def triton(self) -> TritonServer:
        """The Triton that answers now, or answered last."""
        assert self._kept_triton.server is not None, "the context is not entered"
        return self._kept_triton.server

    @property
    def models(self) -> tuple[ModelVersion, ...]:
        """The versions served, cards verified."""
        return self.triton.models

    @property
    def audits(self) -> bool:
        """Whether a share of the answers of statistical certificates is judged by Certify."""
        return self._audit is not None

    @property
    def has_tokens(self) -> bool:
        """Whether the front lets in only who brings a token."""
        return self._front_options.token_file is not None

    @property
    def log(self) -> Path:
        """The newest of what the Triton writes that answers now."""
        return self.triton.log

    @property
    def state(self) -> FrontState:
        """What the front is told: whether it answers now, and why not."""
        return self._state

    def note_switch(self, switch: Switch) -> None:
        """Count a version that was to be served, log what became of it, and tell the front the tiers that it has."""
        with self._telling:
            if self._state.grpc:
                self._state = replace(self._state, models=self.triton.names)
                self._kept_front.tell(self._state)
        self._recorder.add(SWITCHES, switch.model, switch.outcome.value)
        if self._events is not None:
            level: Level = "info" if switch.outcome is SwitchOutcome.SWITCHED else "error"
            fields = {**asdict(switch), "outcome": switch.outcome.value}
            self._events.event("switch", level=level, **fields)

    def wait(self) -> None:
        """Block until it ends by itself: something failed that is not started again, or failed too often.

        Raises:
            HeatserveError: it did. Says why.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error

    @property
    def _audit_folder(self) -> Path:
        return self.folder / "audit"

    def _make_folders(self) -> None:
        """Make its own folders again, where something cleaned temporary folders up."""
        with suppress(OSError):  # what is started needs them, and says why it cannot
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self.metrics.mkdir(exist_ok=True)

    def _count(self, cleanup: ExitStack) -> None:
        """Begin to count and to log."""
        self._recorder = Recorder(self.metrics)
        self._recorder.set(READY, 0)
        for process, cause in product(get_args(Kept), get_args(Cause)):
            self._recorder.add(RESTARTS, process, cause, by=0)
        self._events: EventLog | None = None
        if self._log_file is not None:
            self._events = EventLog(self._log_file, process="supervisor", recorder=self._recorder)
            cleanup.callback(self._events.close)

    def _triton_kept(self, wanted: Endpoints) -> KeptTriton:
        version = version_of(find_triton(backend_directory=self._backend_directory))
        options = self._front_options
        guard = "--token-file" if options.token_file else "--rate" if options.rate else ""
        endpoints = behind_front(
            wanted, version, triton_http=self._triton_http, guard=guard, has_client_ca=options.client_ca is not None
        )

        def create() -> TritonServer:
            self._make_folders()
            before = kept.server  # callers know its port of gRPC, and its versions were tried
            return TritonServer(
                self.repository,
                models=self._names,
                versions={model.name: model.version for model in before.models} if before else None,
                endpoints=replace(endpoints, grpc=before.endpoints.grpc) if before else endpoints,
                backend_directory=self._backend_directory,
                tls=options.server_tls(),
                metrics=self.metrics,
                trust=self._trust,
                audit=replace(self._audit, folder=self._audit_folder) if self._audit else None,
            )

        kept = KeptTriton(
            create,
            rule=self._supervision.restart,
            on_change=self._triton_changed,
            on_event=self._happened,
            on_end=self._ends_by_itself,
        )
        return kept

    def _front_kept(self, sockets: FrontSockets, log: BinaryIO, lock: int) -> KeptFront:
        def create() -> Front:
            self._make_folders()
            return Front(
                self._front_options,
                sockets,
                folder=self.folder,
                log=log,
                events=self._log_file,
                environment={**os.environ, FOLDER_VARIABLE: str(self.metrics)},
                pass_fds=[lock],
            )

        return KeptFront(
            create,
            sockets,
            rule=self._supervision.restart,
            on_event=self._happened,
            on_end=self._ends_by_itself,
        )

    def _triton_changed(self, triton: TritonServer | None) -> None:
        is_restarting = FrontState(reason=_RESTARTING, models=self._state.models)
        self._tell(state_of_triton(triton) if triton else is_restarting)

    def _tell(self, state: FrontState) -> None:
        with self._telling:
            if self._is_ending:
                state = replace(state, ready=False, reason=_ENDING, is_draining=True)
            self._state = state
            self._recorder.set(READY, state.ready)
            self._kept_front.tell(state)

    def _happened(self, event: Event) -> None:
        if isinstance(event, Restart):
            self._recorder.add(RESTARTS, event.process, event.cause)
        if self._events is not None:
            level: Level = "info" if isinstance(event, Recovery) else "error"
            fields = asdict(event)
            if "process" in fields:  # a line has the process that writes it
                fields["what"] = fields.pop("process")
            self._events.event(type(event).__name__.lower(), level=level, **fields)
        self._on_event(event)

    def _ends_by_itself(self, error: Exception) -> None:
        self._error = error
        self._ended.set()

    def _end(self) -> None:
        """End everything: in order, and at once what never was ready, or where another Ctrl-C interrupts that."""
        try:
            if self._kept_triton.server is not None:
                self._drain()
        finally:
            for kept in (self._kept_front, self._kept_triton):
                kept.hurry()
                kept.stop()

    def _drain(self) -> None:
        self._is_ending = True
        self._tell(self._state)
        if not self._ended.is_set():
            time.sleep(self._supervision.grace)
        self._kept_front.stop()
        self._kept_triton.stop()
