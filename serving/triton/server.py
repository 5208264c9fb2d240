"""Triton as a child process: started on verified models, ready or explained, and ended with all that it left."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from heatserve.serving.allocator import GIVES_BACK
from heatserve.serving.client.connection import Connection
from heatserve.serving.errors import ServingError
from heatserve.serving.observed.facts import declare_models
from heatserve.serving.observed.probes import probe_environment
from heatserve.serving.observed.recorder import FOLDER_VARIABLE
from heatserve.serving.shadow.folder import AuditSettings, audit_environment
from heatserve.serving.tiers.protocol import socket_folder
from heatserve.serving.tiers.unanswered import unanswered
from heatserve.serving.triton import guarded_exec
from heatserve.serving.triton.bounded_log import BoundedLog
from heatserve.serving.triton.debris import explained_writes, log_of, seal_regions, server_folder
from heatserve.serving.triton.endpoints import STANDARD_PORTS, Endpoints
from heatserve.serving.triton.installation import find_triton
from heatserve.serving.triton.log import explain
from heatserve.serving.triton.processes import ending, triton_and_instances
from heatserve.serving.triton.sockets import listens
from heatserve.serving.triton.voters import Voters
from heatserve.serving.triton.watch import Watch, has_unloaded, question_of, tier_questions
from heatserve.serving.triton.workspace import prepare

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion

_POLL_SECONDS = 0.02
_KILL_AFTER_SECONDS = 5.0  # past the time that Triton was given to drain
_SEND_SECONDS = 0.1  # after its last request is answered, for the answer to leave
_DOOMED_SECONDS = 1.0  # from a model that is found dead until Triton is killed: for answers of the others
_SETTLE_SECONDS = 2.0  # the last lines of Triton's model instances, which end after it
# A caller that answers no ping is closed after 60 + 20 s; each connection is replaced after ten minutes, and what runs
# on it then has a minute more. Clients of gRPC connect again by themselves.
_CONNECTION_LIMITS = (
    "--grpc-keepalive-time=60000",
    "--grpc-keepalive-timeout=20000",
    "--grpc-keepalive-permit-without-calls=true",
    "--grpc-http2-max-pings-without-data=0",
    "--grpc-max-connection-age=600000",
    "--grpc-max-connection-age-grace=60000",
)
# Of requests that were answered, Triton would keep this many for reuse, with the memory of the largest: 2 GiB each.
_KEPT_REQUESTS = "--grpc-infer-allocation-pool-size=0"
_CRASHED = (
    "\n  where a warm-up fails (`model_warmup` in config.pbtxt), Triton may die so before it "
    "says why; started again, it may say it"
)
# Shared memory lets a caller name the memory that Triton reads and writes; the others load models, or change what is
# logged where. Triton closes an API to callers that lack a header. Whoever is on this machine may read the header in
# the list of processes, so nobody can send it: HTTP/2 has no capitals in names, HTTP/1 no line break in values.
_CLOSED_APIS = "shared-memory,model-repository,trace,logging"
_HEADER = "NOBODY={secret}\n"


class TritonServer:
    """A running Triton as a context manager.

    The thread that enters the context must outlive it: Linux ends Triton with that thread.

    Attributes:
        models: the versions served, cards verified.
        endpoints: where they are served, free ports filled in.
        voters: the processes that take the votes of tiers.
        metrics: the folder in which its processes count (`heatserve.serving.observed.page`).
        log: the newest of what Triton writes, at most 8 MiB; removed at the end, unless Triton failed.
    """

    models: tuple[ModelVersion, ...]
    endpoints: Endpoints
    voters: Voters
    metrics: Path
    log: Path

    def __init__(
        self,
        repository: Path | str,
        *,
        models: Sequence[str] = (),
        endpoints: Endpoints = STANDARD_PORTS,
        backend_directory: Path | str | None = None,
        metrics: Path | None = None,
        audit: AuditSettings | None = None,
        startup_timeout: float = 60.0,
        exit_timeout: int = 10,
    ) -> None:
        """Describe the server; entering the context starts it.

        Args:
            repository: a folder of exported models.
            models: names of those to serve; none: all.
            endpoints: where to listen.
            backend_directory: Triton's backends, where they are not beside it.
            metrics: a folder that outlives this Triton, in which its processes count; None: one that ends with it.
            audit: which share of the answers is judged by Certify, and what follows; None: none.
            startup_timeout: seconds until all models must be ready.
            exit_timeout: seconds that requests in flight are given at the end.
        """
        self._repository = Path(repository)
        self._names = models
        self._wanted = endpoints
        self._backend_directory = Path(backend_directory) if backend_directory else None
        self._metrics = metrics
        self._audit = audit
        self._startup_timeout = startup_timeout
        self._exit_timeout = exit_timeout
        self._failed = False
        self._problem = ""
        self._watch: Watch | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> TritonServer:
        """Verify the cards, start Triton and wait until every model is ready.

        Raises:
            CardError: a model without a card that matches its graphs.
            ServingError: no models, no usable Triton, a port that is taken, or Triton failed; names its log.
        """
        self.models = _verified_models(self._repository, self._names)
        triton = find_triton(backend_directory=self._backend_directory)
        # Triton 2.51 ends at single malformed HTTP requests (a shape of 2³² images will do); its gRPC side stood.
        self.endpoints = (self._wanted.with_local_http() if triton.is_of_wheel else self._wanted).bound()
        with ExitStack() as cleanup:
            folder, lock = cleanup.enter_context(server_folder())
            self._folder = folder
            with explained_writes():
                self.metrics = self._metrics or folder / "metrics"
                self.metrics.mkdir(exist_ok=True)
                declare_models(self.metrics, self.models)
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
            self._watch = self._watching()
            self._watch.start()
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let requests in flight finish, then end Triton and all of its processes, and remove its files."""
        self._cleanup.close()

    def wait(self) -> None:
        """Block until Triton ends by itself, which it should not, or is ended since a model does not answer any more.

        Raises:
            ServingError: it did. Says why, as far as that is known, and names its log.
        """
        self._process.wait()
        raise self._failure(f"was ended: {self._problem}" if self._problem else "ended by itself")

    def _watching(self) -> Watch:
        questions = [question_of(model, self._workspace.repository / model.name) for model in self.models]
        for question in questions[:]:
            questions += tier_questions(question, self._workspace.tiers[question.model])
        return Watch(self._process.pid, self.endpoints.grpc_url, questions, self._end)

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

    def _options(self, *, shared_memory: str) -> Iterator[str]:
        yield f"--model-repository={self._workspace.repository}"
        yield f"--backend-directory={self._workspace.backends}"
        yield f"--backend-config=python,shm-region-prefix-name={shared_memory}"  # servers side by side stay apart
        yield "--disable-auto-complete-config"  # the exporter wrote all of it; guessing takes a second per model
        yield f"--exit-timeout-secs={self._exit_timeout}"
        for service in ("http", "grpc", "metrics"):
            host = self.endpoints.http_host if service != "grpc" else None
            yield f"--{service}-address={host or self.endpoints.host}"
            yield f"--{service}-port={getattr(self.endpoints, service)}"
        yield from _CONNECTION_LIMITS
        yield _KEPT_REQUESTS
        header = _HEADER.format(secret=secrets.token_hex())
        yield f"--http-restricted-api={_CLOSED_APIS}:{header}"
        yield f"--grpc-restricted-protocol={_CLOSED_APIS}:{header}"

    def _wait_until_ready(self, *, shared_memory: str) -> None:
        deadline = time.monotonic() + self._startup_timeout
        ports = (self.endpoints.http, self.endpoints.grpc, self.endpoints.metrics)
        # All three: a server beside ours that took a port first may be what answers.
        while not (
            _is_ready(self.endpoints)
            and all(listens(self._process.pid, port) for port in ports)
            and self.voters.are_ready()
        ):
            seal_regions(shared_memory)
            if self._process.poll() is not None:
                self.endpoints.bound()  # where a port was taken meanwhile, say so
                crashed = self._process.returncode == -signal.SIGSEGV
                what = f"was ended: {self._problem}" if self._problem else "did not start"
                raise self._failure(what, advice=_CRASHED if crashed else "")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready after {self._startup_timeout:g} s")
            time.sleep(_POLL_SECONDS)
        seal_regions(shared_memory)

    def _failure(self, what: str, *, advice: str = "") -> ServingError:
        self._failed = True
        code = self._process.poll()
        if code is not None:
            self.voters.stop()
            self._log.settle(seconds=_SETTLE_SECONDS)
        how = "" if code is None or self._problem else f": it {ending(-code if code < 0 else code << 8)}"
        reasons = explain(self.log).replace(str(self._workspace.repository), str(self._repository))
        return ServingError(f"Triton {what}{how}; {reasons}{advice}")

    def _stop(self) -> None:
        try:
            if self._watch is not None:
                self._watch.stop()
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
        with closing(Connection(self.endpoints.grpc_url, timeout=1)) as connection:
            while self._process.poll() is None and time.monotonic() < deadline:
                if has_unloaded(connection, self.models[0].name) and not self._has_unanswered():
                    time.sleep(_SEND_SECONDS)
                    return
                time.sleep(_POLL_SECONDS)

    def _has_unanswered(self) -> bool:
        """Whether a tier that runs has requests that are not answered."""
        running = {process.model for process in triton_and_instances(self._process.pid)}
        return any(
            kind.beside(model) in running and unanswered(socket_folder(self._folder, model), kind.value)
            for model, kinds in self._workspace.tiers.items()
            for kind in kinds
        )

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _verified_models(repository: Path, names: Sequence[str]) -> tuple[ModelVersion, ...]:
    try:
        from heatserve.export.repository.layout import open_model, open_models
    except ImportError as error:
        raise ServingError(f"serving needs more packages ({error}): pip install 'heatserve[serve]'") from None

    named = (open_model(repository, name) for name in dict.fromkeys(names))
    models = tuple(named if names else open_models(repository))
    if not models:
        raise ServingError(
            f"{repository}: expected a model repository, found no model in it; write one with `heatserve export`"
        )
    return models


def _is_ready(endpoints: Endpoints) -> bool:
    connection = http.client.HTTPConnection(endpoints.http_url.removeprefix("http://"), timeout=1)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
