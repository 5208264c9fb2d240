"""What a running Triton serves: watched, and replaced version by version."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heatserve.serving.errors import ServingError
from heatserve.serving.observed.facts import declare_models
from heatserve.serving.triton.debris import explained_writes
from heatserve.serving.triton.opening import verified_model
from heatserve.serving.triton.options import START_SECONDS
from heatserve.serving.triton.processes import Process, process_of
from heatserve.serving.triton.replacing import Replacement
from heatserve.serving.triton.watch import Watch, question_of, tier_questions

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.export.signing.trust import Trust
    from heatserve.serving.client.access import Access
    from heatserve.serving.triton.offers import Offer
    from heatserve.serving.triton.voters import Voters
    from heatserve.serving.triton.workspace import Workspace

_GO_BACK_SECONDS = 600.0  # what was not replaced answers meanwhile, and what was answers as the other version
COPIES_NAME = "trusted"
"""In the folder of a server: copies of signed versions."""


@dataclass(frozen=True)
class Serving:
    """A Triton whose models are ready, as far as it takes to replace one."""

    triton: int
    """Its process."""
    way: Access
    """To its gRPC."""
    http_url: str
    log: Path
    metrics: Path
    workspace: Workspace
    voters: Voters
    repository: Path
    """The user's."""
    trust: Trust | None


class ServedVersions:
    """The versions that a Triton serves, with the watch over them.

    Attributes:
        models: the versions, cards verified.
    """

    models: tuple[ModelVersion, ...]

    def __init__(
        self, serving: Serving, models: Sequence[ModelVersion], *, on_problem: Callable[[str], object]
    ) -> None:
        """Begin to watch them.

        Args:
            serving: what serves them.
            models: that are ready.
            on_problem: called, from a thread, where one does not answer any more, with what was expected and found.
        """
        self.models = tuple(models)
        self._serving = serving
        self._on_problem = on_problem
        self._replacing = threading.Lock()
        self._ended = threading.Event()
        self._triton = process_of(serving.triton)
        self._watch = self._watching(frozenset())
        self._watch.start()

    @property
    def has_ended(self) -> bool:
        """Whether Triton is to end, or has: nothing is opened or replaced any more."""
        return self._ended.is_set() or self._triton.look().is_dead

    def stop(self) -> None:
        """Watch and replace no more: Triton is to end."""
        self._ended.set()
        self._watch.stop()

    def open(self, name: str, version: int) -> ModelVersion:
        """A version of a model, verified, and signed where nothing else is served: to be served, or discarded.

        Raises:
            HeatserveError: see `verified_models`; or Triton has ended.
        """
        self._check_running()
        folder = self._copies / f"{name}-{version}-{secrets.token_hex(4)}"
        return verified_model(self._serving.repository, name, version, trust=self._serving.trust, folder=folder)

    def discard(self, model: ModelVersion) -> None:
        """Remove the copy of a version that `open` made, and that is not served."""
        if model.path.is_relative_to(self._copies):
            shutil.rmtree(self._copies / model.path.relative_to(self._copies).parts[0], ignore_errors=True)

    def replace(self, model: ModelVersion, *, timeout: float = START_SECONDS) -> None:
        """Serve this version, with its tiers, in place of the one that is served under its name, while callers ask.

        No request fails for it: the former version answers those that it has. Where the new one does not load, the
        former stays.

        Args:
            model: as `open` gave it, with the input and the classes of the one that is served.
            timeout: seconds until it must be loaded.

        Raises:
            CardError: its configuration is not that of its card.
            ServingError: it does not load; says why. Or Triton has ended.
        """
        self._check_running()
        workspace = self._serving.workspace
        with self._replacing:
            former = workspace.offers[model.name]
            with explained_writes():
                new = workspace.offer(model)
            try:
                self._show([former], new, timeout)
            except ServingError as error:
                if self.has_ended:
                    raise
                self._go_back(former, new)
                theirs, ours = str(workspace.repository), str(self._serving.repository)
                raise ServingError(str(error).replace(theirs, ours)) from None

    def _go_back(self, former: Offer, new: Offer) -> None:
        """Have Triton serve the former version again, of which a part may have been replaced."""
        try:
            with explained_writes():
                again = self._serving.workspace.offer(former.model)
            self._show([former, new], again, _GO_BACK_SECONDS)
        except ServingError as error:
            self._on_problem(
                f"{former.model.name}: expected version {former.model.version} to load again, found: {error}"
            )
            raise

    def _check_running(self) -> None:
        """Write nothing into the folder of a Triton that has ended, which was removed."""
        if self.has_ended:
            raise ServingError("expected a Triton that runs, found that it was ended; ask again")

    @property
    def _copies(self) -> Path:
        return self._serving.workspace.repository.with_name(COPIES_NAME)

    def _show(self, former: Sequence[Offer], new: Offer, timeout: float) -> None:
        """Have Triton serve an offer in place of others, and let those end."""
        serving = self._serving
        replacement = Replacement(
            serving.triton,
            serving.http_url,
            serving.log,
            serving.workspace.repository,
            serving.voters,
            former=former,
            new=new,
            interrupted=self._ended,
        )
        self._watch.allow_to_end({name for offer in (*former, new) for name in offer.names})
        replacement.run(timeout=timeout)
        if any(offer.model.version == new.model.version for offer in former):  # ready before it is loaded anew
            replacement.has_ended(seconds=timeout)
        serving.workspace.offers[new.model.name] = new
        self.models = tuple(new.model if model.name == new.model.name else model for model in self.models)
        with suppress(OSError):  # a disk without room: the page of metrics tells of the former version
            declare_models(serving.metrics, self.models)
        self._watch.stop()
        self._watch = self._watching(replacement.replaced)
        if not self._ended.is_set():
            self._watch.start()
        threading.Thread(target=self._drain, args=(replacement, former), name="heatserve-drain", daemon=True).start()

    def _drain(self, replacement: Replacement, former: Sequence[Offer]) -> None:
        replacement.drain()
        for offer in former:
            if offer.model not in self.models:
                self.discard(offer.model)

    def _watching(self, replaced: frozenset[Process]) -> Watch:
        workspace = self._serving.workspace
        questions = [question_of(model, workspace.repository / model.name) for model in self.models]
        for question in questions[:]:
            questions += tier_questions(question, workspace.tiers[question.model])
        return Watch(self._serving.triton, self._serving.way, questions, self._on_problem, replaced=replaced)
