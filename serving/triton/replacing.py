"""Replacing a version that a running Triton serves by another one, under load, without a request that fails.

Triton (2.51 with `--model-control-mode=poll`) looks at its repository every second. A model that has changed is loaded
beside the one that is served, takes its place once it is ready, and the former ends when its requests are answered.
Where the new one does not load, the former stays. This was tried under load before it was relied on: docs/decisions.md.
"""

from __future__ import annotations

import http.client
import re
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heatserve.serving.errors import ServingError
from heatserve.serving.triton.debris import seal_regions
from heatserve.serving.triton.log import without_stack
from heatserve.serving.triton.processes import Process, triton_and_instances

if TYPE_CHECKING:
    from heatserve.serving.triton.offers import Offer
    from heatserve.serving.triton.voters import VoterPlan, Voters

_LOOK_SECONDS = 0.02
_DRAIN_SECONDS = 600.0  # for requests to the former version; the longest deadline of a tier is the operator's choice
_FAILED = re.compile(r"failed to load '(?P<name>[^']+)' version (?P<version>\d+): (?P<why>.*)\"$", re.MULTILINE)


class Replacement:
    """One replacement in a Triton that runs: `run` it, and `drain` what was replaced."""

    def __init__(
        self,
        triton: int,
        http_url: str,
        log: Path,
        repository: Path,
        voters: Voters,
        *,
        former: Sequence[Offer],
        new: Offer,
        interrupted: threading.Event,
    ) -> None:
        """Describe it.

        Args:
            triton: the process.
            http_url: where it answers HTTP.
            log: what it writes.
            repository: what it looks at, in the folder whose name its regions of shared memory begin with.
            voters: of its models.
            former: what Triton was shown of the model before, and serves, or might.
            new: what it is to serve from now on.
            interrupted: set when Triton is to end.
        """
        self._triton = triton
        self._address = http_url.removeprefix("http://")
        self._log = log
        self._repository = repository
        self._voters = voters
        self._former = former
        self._new = new
        self._interrupted = interrupted
        self.replaced: frozenset[Process] = frozenset()
        """The processes of the former version; each ends once its requests are answered."""

    def run(self, *, timeout: float) -> None:
        """Replace; returns when the new version answers under all of its names.

        Raises:
            ServingError: it does not load within `timeout` seconds. Says why; what was shown must be taken back.
        """
        deadline = time.monotonic() + timeout
        known = len(self._failures())
        names = {name for offer in (*self._former, self._new) for name in offer.names}
        self.replaced = frozenset(p for p in triton_and_instances(self._triton)[1:] if p.model in names)
        if self._new.voter:
            self._voters.add(self._new.voter, is_needed=False)
            self._wait_for_voter(self._new.voter, deadline)
        self._new.show(self._repository)
        version = self._new.model.version
        waiting = list(self._new.names)
        while waiting := [name for name in waiting if not self._answers(f"/v2/models/{name}/versions/{version}/ready")]:
            if failed := self._failures()[known:]:
                raise ServingError(f"{self._new.model.name}: version {version} does not load: {failed[0]}")
            self._check_time(deadline, f"expected {', '.join(waiting)} to load")
            seal_regions(self._repository.parent.name)
            time.sleep(_LOOK_SECONDS)
        seal_regions(self._repository.parent.name)
        if self._new.voter:
            self._voters.need(self._new.voter)

    def has_ended(self, *, seconds: float) -> bool:
        """Whether the former processes have ended; waits for that."""
        deadline = time.monotonic() + seconds
        while any(not process.look().is_dead for process in self.replaced):
            if self._interrupted.wait(_LOOK_SECONDS) or time.monotonic() > deadline:
                return False
        return True

    def drain(self) -> None:
        """Wait until the former version has answered its requests, then end its voter and remove its folder."""
        if self.has_ended(seconds=_DRAIN_SECONDS) or not self._interrupted.is_set():
            for offer in self._former:
                if offer.voter:
                    self._voters.remove(offer.voter)
                shutil.rmtree(offer.folder, ignore_errors=True)

    def _wait_for_voter(self, plan: VoterPlan, deadline: float) -> None:
        while not self._voters.is_ready(plan):
            if problem := self._voters.problem_of(plan):
                raise ServingError(f"{plan.model}: expected a process that takes the votes of its tiers: {problem}")
            self._check_time(deadline, "expected the process that takes the votes of its tiers to start")
            time.sleep(_LOOK_SECONDS)

    def _check_time(self, deadline: float, expected: str) -> None:
        if time.monotonic() > deadline or self._interrupted.is_set():
            raise ServingError(f"{self._new.model.name}: {expected} in time, found that it did not")

    def _answers(self, path: str) -> bool:
        return answers_ok(self._address, path)

    def _failures(self) -> Sequence[str]:
        """Why versions of the model or of its tiers did not load, by Triton's log."""
        try:
            text = self._log.read_text(errors="replace")
        except OSError:
            return []
        version = str(self._new.model.version)
        return [
            f"{found['name']}: {without_stack(found['why'])}"
            for found in _FAILED.finditer(text)
            if found["name"] in self._new.names and found["version"] == version
        ]


def answers_ok(address: str, path: str) -> bool:
    """Whether a Triton answers a question about its health, or that of a model, with yes.

    Args:
        address: host and port of its HTTP.
        path: of the question.
    """
    connection = http.client.HTTPConnection(address, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
