"""Triton as a child process: started on verified models, ready or explained, and ended with all that it left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from heatserve.serving.allocator import GIVES_BACK
from heatserve.serving.client.access import Access, access_to
from heatserve.serving.client.connection import Connection
from heatserve.serving.errors import CrashedError, ServingError
from heatserve.serving.observed.facts import declare_models
from heatserve.serving.observed.probes import probe_environment
from heatserve.serving.observed.recorder import FOLDER_VARIABLE
from heatserve.serving.shadow.folder import AuditSettings, audit_environment
from heatserve.serving.tiers.unanswered import unanswered
from heatserve.serving.triton import guarded_exec
from heatserve.serving.triton.bounded_log import BoundedLog
from heatserve.serving.triton.debris import explained_writes, log_of, seal_regions, server_folder
from heatserve.serving.triton.endpoints import SERVICES, STANDARD_PORTS, Endpoints
from heatserve.serving.triton.installation import find_triton
from heatserve.serving.triton.log import explain
from heatserve.serving.triton.offers import OFFERS_NAME
from heatserve.serving.triton.opening import verified_models
from heatserve.serving.triton.options import CONNECTION_LIMITS, POLLS, START_SECONDS, closed_apis
from heatserve.serving.triton.processes import ending, triton_and_instances
from heatserve.serving.triton.replacing import answers_ok
from heatserve.serving.triton.served import COPIES_NAME, ServedVersions, Serving
from heatserve.serving.triton.sockets import listens
from heatserve.serving.triton.tls import GrpcTls, ServerTls
from heatserve.serving.triton.versions import TritonVersion, below_floor, version_of
from heatserve.serving.triton.voters import Voters
from heatserve.serving.triton.watch import has_unloaded
from heatserve.serving.triton.workspace import prepare
from heatserve.serving.vote_protocol import socket_folder

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.export.signing.trust import Trust

_POLL_SECONDS = 0.02
_KILL_AFTER_SECONDS = 5.0  # past the time that Triton was given to drain
_SEND_SECONDS = 0.1  # after its last request is answered, for the answer to leave
_DOOMED_SECONDS = 1.0  # from a model that is found dead until Triton is killed: for answers of the others
_SETTLE_SECONDS = 2.0  # the last lines of Triton's model instances, which end after it
_CRASHES = (-signal.SIGSEGV, -signal.SIGABRT)
_CRASHED = (
    "\n  where a warm-up fails (`model_warmup` in config.pbtxt), Triton may die so before it "
    "says why; started again, it may say it"
)


class TritonServer:
    """A running Triton as a context manager.

    The thread that enters the context must outlive it: Linux ends Triton with that thread.

    Attributes:
        version: of this Triton, as it says itself; None where it does not say.
        endpoints: where they are served, free ports filled in: this machine only, where the version is below the floor.
        way: how this process reaches its gRPC.
        grpc_tls: the TLS of its gRPC; None: it is not encrypted, since it is for this machine only, or none was given.
        voters: the processes that take the votes of tiers.
        metrics: the folder in which its processes count (`heatserve.serving.observed.page`).
        log: the newest of what Triton writes, at most 8 MiB; removed at the end, unless Triton failed.
    """

    version: TritonVersion | None
    endpoints: Endpoints
    way: Access
    grpc_tls: GrpcTls | None
    voters: Voters
    metrics: Path
    log: Path

    def __init__(
        self,
        repository: Path | str,
        *,
        models: Sequence[str] = (),
        versions: Mapping[str, int] | None = None,
        endpoints: Endpoints = STANDARD_PORTS,
        backend_directory: Path | str | None = None,
        tls: ServerTls | None = None,
        metrics: Path | None = None,
        audit: AuditSettings | None = None,
        trust: Trust | None = None,
        startup_timeout: float = START_SECONDS,
        exit_timeout: int = 10,
    ) -> None:
        """Describe the server; entering the context starts it.

        Args:
            repository: a folder of exported models.
            models: names of those to serve; none: all.
            versions: of models that are not to be served in the version that is pinned, or else the newest.
            endpoints: where to listen.
            backend_directory: Triton's backends, where they are not beside it.
            tls: of gRPC, where other machines can reach it; None: it is not encrypted.
            metrics: a folder that outlives this Triton, in which its processes count; None: one that ends with it.
            audit: which share of the answers is judged by Certify, and what follows; None: none.
            trust: keys, one of which must have signed each model, which is then copied; None: it need not be signed.
            startup_timeout: seconds until all models must be ready.
            exit_timeout: seconds that requests in flight are given at the end.
        """
        self._repository = Path(repository)
        self._names = models
        self._versions = versions or {}
        self._wanted = endpoints
        self._backend_directory = Path(backend_directory) if backend_directory else None
        self._tls = tls
        self._metrics = metrics
        self._audit = audit
        self._trust = trust
        self._startup_timeout = startup_timeout
        self._exit_timeout = exit_timeout
        self._failed = False
        self._problem = ""
        self._hurried = threading.Event()
        self._models: tuple[ModelVersion, ...] = ()
        self._served: ServedVersions | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> TritonServer:
        """Verify the cards, start Triton and wait until every model is ready.

        Raises:
            CardError: a model without a card that matches its graphs.
            CrashedError: Triton crashed, as it does at times on a busy machine.
            UntrustedError: a model that no trusted key has signed as it is.
            ServingError: no models, no usable Triton, a port that is taken, or Triton failed; names its log.
        """
        with ExitStack() as cleanup:
            folder, lock = cleanup.enter_context(server_folder())
            self._folder = folder
            with explained_writes():
                self._models = verified_models(
                    self._repository, self._names, self._versions, trust=self._trust, folder=folder / COPIES_NAME
                )
            triton = find_triton(backend_directory=self._backend_directory)
            self.version = version_of(triton)
            self.endpoints = (self._wanted.all_local() if below_floor(self.version) else self._wanted).bound()
            self._encrypt(folder)
            with explained_writes():
                self.metrics = self._metrics or folder / "metrics"
                self.metrics.mkdir(exist_ok=True)
                declare_models(self.metrics, self.models, passed=triton.has_native_onnxruntime)
                self._workspace = prepare(triton, self.models, folder, audits=self._audit is not None)
                ours = {FOLDER_VARIABLE: str(self.metrics), **probe_environment()}
                self._environment = {**self._workspace.environment, **ours, **audit_environment(self._audit, folder)}
                self._log = BoundedLog(log_of(folder))
                voters_log = cleanup.enter_context(os.fdopen(os.dup(self._log.writer.fileno()), "wb", buffering=0))
            self._start([str(triton.binary), *self._options(shared_memory=folder.name)], lock)
            self.voters = Voters(
                self._workspace.voters,
                folder,
                modules=self._workspace.modules,
                environment=self._environment,
                on_problem=self._end,
            )
            cleanup.callback(self._stop)
            with explained_writes():
                self.voters.start(voters_log, lock)
            self._wait_until_ready(shared_memory=folder.name)
            self._served = ServedVersions(self._serving(), self._models, on_problem=self._end)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let requests in flight finish, then end Triton and all of its processes, and remove its files."""
        self._cleanup.close()

    @property
    def names(self) -> tuple[str, ...]:
        """What may be asked for: the models, and the tiers beside them."""
        tiers = (kind.beside(model) for model, kinds in self._workspace.tiers.items() for kind in kinds)
        return (*(model.name for model in self.models), *tiers)

    @property
    def problem(self) -> str:
        """Why it is being ended though nobody asked it to: what was expected and found; empty while all is well."""
        return self._problem

    @property
    def has_ended(self) -> bool:
        """Whether Triton runs no more; `wait` says why."""
        return self._process.poll() is not None

    def hurry(self) -> None:
        """From any thread: give a start up, and at the end do not wait for requests in flight."""
        self._hurried.set()

    def wait(self) -> None:
        """Block until Triton ends by itself, which it should not, or is ended since a model does not answer any more.

        Raises:
            ServingError: it did. Says why, as far as that is known, and names its log.
        """
        self._process.wait()
        raise self._failure(f"was ended: {self._problem}" if self._problem else "ended by itself")

    @property
    def models(self) -> tuple[ModelVersion, ...]:
        """The versions served, cards verified."""
        return self._served.models if self._served else self._models

    @property
    def versions(self) -> ServedVersions:
        """What it serves, to be replaced version by version."""
        assert self._served is not None, "the context is not entered"
        return self._served

    def _encrypt(self, folder: Path) -> None:
        """Take up TLS where gRPC is open to other machines: what is for this machine only needs none."""
        self.grpc_tls = None
        if self._tls is not None and not self.endpoints.is_loopback and "grpc" not in self.endpoints.local:
            self.grpc_tls = GrpcTls.prepared(self._tls, folder)
            self.endpoints = replace(self.endpoints, encrypted=frozenset({"grpc"}))
            self.way = self.grpc_tls.access(self.endpoints.grpc_url)
        else:
            self.way = access_to(self.endpoints.grpc_url)

    def _serving(self) -> Serving:
        return Serving(
            triton=self._process.pid,
            way=self.way,
            http_url=self.endpoints.http_url,
            log=self.log,
            metrics=self.metrics,
            workspace=self._workspace,
            voters=self.voters,
            repository=self._repository,
            trust=self._trust,
        )

    def _end(self, problem: str) -> None:
        """End Triton, which would go on to say that it is ready: new requests are refused at once."""
        self._problem = problem
        self._failed = True
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_DOOMED_SECONDS)
        self._kill()

    def _start(self, command: list[str], lock: int) -> None:
        self.log = self._log.path
        limits = [str(os.getpid()), str(int(signal.SIGTERM)), str(self._workspace.file_bytes)]
        try:
            with self._log.writer as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-IS", guarded_exec.__file__, *limits, *command],
                    env={**GIVES_BACK, **self._environment},
                    cwd=self._workspace.repository,  # nothing there can be taken for a module
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[lock],
                    start_new_session=True,  # a Ctrl-C in the terminal reaches only us, and we let Triton drain
                )
        except OSError as error:  # no process is left
            raise ServingError(f"Triton cannot be started: {error.strerror}: {error.filename}") from None

    def _options(self, *, shared_memory: str) -> Iterator[str]:
        yield f"--model-repository={self._workspace.repository}"
        yield f"--backend-directory={self._workspace.backends}"
        yield f"--backend-config=python,shm-region-prefix-name={shared_memory}"  # servers side by side stay apart
        yield "--disable-auto-complete-config"  # the exporter wrote all of it; guessing takes a second per model
        yield f"--exit-timeout-secs={self._exit_timeout}"
        for service in SERVICES:
            yield f"--{service}-address={self.endpoints.address(service)}"
            yield f"--{service}-port={getattr(self.endpoints, service)}"
        if self.grpc_tls is not None:
            yield from self.grpc_tls.options()
        yield from POLLS
        yield from CONNECTION_LIMITS
        yield from closed_apis()

    def _wait_until_ready(self, *, shared_memory: str) -> None:
        deadline = time.monotonic() + self._startup_timeout
        ports = (self.endpoints.http, self.endpoints.grpc, self.endpoints.metrics)
        # All three: a server beside ours that took a port first may be what answers.
        while not (
            answers_ok(self.endpoints.http_url.removeprefix("http://"), "/v2/health/ready")
            and all(listens(self._process.pid, port) for port in ports)
            and self.voters.are_ready()
        ):
            seal_regions(shared_memory)
            if self._hurried.is_set():
                raise ServingError("Triton was ended while it started")
            if self._process.poll() is not None:
                self.endpoints.bound()  # where a port was taken meanwhile, say so
                if not self._problem and self._process.returncode in _CRASHES:
                    raise CrashedError(f"{self._failure('did not start')}{_CRASHED}")
                raise self._failure(f"was ended: {self._problem}" if self._problem else "did not start")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready after {self._startup_timeout:g} s")
            time.sleep(_POLL_SECONDS)
        seal_regions(shared_memory)

    def _failure(self, what: str) -> ServingError:
        self._failed = True
        code = self._process.poll()
        if code is not None:
            self.voters.stop()
            self._log.settle(seconds=_SETTLE_SECONDS)
        how = "" if code is None or self._problem else f": it {ending(-code if code < 0 else code << 8)}"
        reasons = explain(self.log).replace(str(self._workspace.repository), str(self._repository))
        return ServingError(f"Triton {what}{how}; {reasons}")

    def _stop(self) -> None:
        try:
            if self._served is not None:
                self._served.stop()
            self._drain()
        finally:  # also when a second Ctrl-C interrupts the wait
            self._kill()
            self._process.wait()
            self.voters.stop()  # after all requests in flight
            self._log.settle(seconds=_SETTLE_SECONDS)
        if not self._failed:
            self.log.unlink(missing_ok=True)

    def _drain(self) -> None:
        """Let Triton end, until it has answered the requests in flight, or its time is over.

        What it does then takes 2 to 3 s, in which it says of every model that there is none (NOT_FOUND). It does not
        count what waits for votes; the tiers do.
        """
        self._process.terminate()
        deadline = time.monotonic() + self._exit_timeout + _KILL_AFTER_SECONDS
        with closing(Connection(self.way, timeout=1)) as connection:
            while self._process.poll() is None and time.monotonic() < deadline and not self._hurried.is_set():
                if has_unloaded(connection, self.models[0].name) and not self._has_unanswered():
                    time.sleep(_SEND_SECONDS)
                    return
                time.sleep(_POLL_SECONDS)

    def _has_unanswered(self) -> bool:
        """Whether a tier that runs has requests that are not answered."""
        running = {process.model for process in triton_and_instances(self._process.pid)}
        folders = self._folder.glob(f"{OFFERS_NAME}/*")  # also of versions that were replaced and are asked no more
        return any(
            kind.beside(model) in running and unanswered(socket_folder(folder, model), kind.value)
            for folder in folders
            for model, kinds in self._workspace.tiers.items()
            for kind in kinds
        )

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
