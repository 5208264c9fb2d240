"""Switching a running server to another version of a model, and back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from heatserve.certification.errors import HeatserveError
from heatserve.export.card import CONTRACT_FIELDS
from heatserve.export.repository.layout import version_dirs
from heatserve.export.repository.pins import Pin, newer_versions, read_pin, version_before, write_pin
from heatserve.serving.errors import ServingError
from heatserve.serving.switching.trial import try_version

if TYPE_CHECKING:
    from heatserve.export.repository.layout import ModelVersion
    from heatserve.serving.triton.served import ServedVersions

Say = Callable[[str], object]


class SwitchOutcome(Enum):
    """What became of a version."""

    SWITCHED = "switched"
    """It is served."""
    REFUSED = "refused"
    """Its card, its signature or its configuration is not in order, or callers would meet another kind of
    certificate, another input or other classes."""
    FAILED_TRIAL = "failed_trial"
    """It could not be served, or answered otherwise than its graph."""
    FAILED_LOAD = "failed_load"
    """Triton did not load it in the place of the version that it serves, which stays."""


@dataclass(frozen=True)
class Switch:
    """A version, and what became of it."""

    model: str
    version: int
    former: int
    """The version that was served before."""
    outcome: SwitchOutcome
    reason: str = ""
    """Why it is not served; or why a server that is started again may serve another one."""
    seconds: float = 0.0


class Switcher:
    """Switches the models of one running server, one after the other."""

    def __init__(
        self,
        repository: Path,
        versions: Callable[[], ServedVersions],
        *,
        on_switch: Callable[[Switch], object] = lambda _: None,
    ) -> None:
        """Describe it.

        Args:
            repository: the model repository that is served.
            versions: those that are served now.
            on_switch: called with each version that was to be served, from the thread that asked for it.
        """
        self._repository = repository
        self._versions = versions
        self._on_switch = on_switch
        self._busy = threading.Lock()

    @property
    def served(self) -> dict[str, int]:
        """The version that is served of each model."""
        return {model.name: model.version for model in self._versions().models}

    def switch(self, name: str, version: int | None = None, *, say: Say = lambda _: None) -> Switch:
        """Verify a version, try it, switch to it and pin it.

        Args:
            name: of a model that is served.
            version: None: the newest.
            say: told what is done, in words for the operator.

        Raises:
            HeatserveError: there is no such model or no version, another switch is under way, or Triton was ended
                meanwhile.
        """
        with self._one_at_a_time():
            former = self._model(name)
            if version is None:
                version = self._newest(name)
            pin = read_pin(self._repository, name)
            passed_over = newer_versions(self._repository, name, version)
            if version == former.version:
                say(f"{name}: version {version} is served")
                again = Pin(version, pin.before if pin else None, passed_over)
                return self._pinned(name, again, former, time.monotonic(), say)
            return self._to(former, version, Pin(version, former.version, passed_over), say, is_tried=True)

    def _newest(self, name: str) -> int:
        folder = self._repository / name
        versions = version_dirs(folder)
        if not versions:
            raise HeatserveError(f"{folder}: expected a version to switch to, found none")
        return int(versions[-1].name)

    def roll_back(self, name: str, version: int | None = None, *, say: Say = lambda _: None) -> Switch:
        """Go back to the version that was served before, without a trial, and pass newer ones over from now on.

        Args:
            name: of a model that is served.
            version: to go back to; None: the one that its pin has as the one before.
            say: told what is done, in words for the operator.

        Raises:
            HeatserveError: there is no such model, nothing to go back to, another switch is under way, or Triton was
                ended meanwhile.
        """
        with self._one_at_a_time():
            former = self._model(name)
            if version is None:
                version = version_before(name, read_pin(self._repository, name))
            pin = Pin(version, None, newer_versions(self._repository, name, version))
            if version == former.version:
                say(f"{name}: version {version} is served")
                return self._pinned(name, pin, former, time.monotonic(), say)
            return self._to(former, version, pin, say, is_tried=False)

    def _to(self, former: ModelVersion, version: int, pin: Pin, say: Say, *, is_tried: bool) -> Switch:
        began, name = time.monotonic(), former.name

        def failed(outcome: SwitchOutcome, error: Exception) -> Switch:
            if versions.has_ended:  # what failed may be that, and not the version
                raise ServingError(f"{name}: expected a server that runs on, found that it was ended; ask again")
            say(f"{name}: version {version} stays out, and version {former.version} is served: {error}")
            return self._told(Switch(name, version, former.version, outcome, str(error), time.monotonic() - began))

        versions = self._versions()
        try:
            model = versions.open(name, version)
        except (HeatserveError, OSError) as error:
            return failed(SwitchOutcome.REFUSED, error)
        try:
            say(f"{name}: the card of version {version} matches its graphs")
            check_same_contract(former, model)
            if is_tried:
                trial = try_version(model, former, kept=self._repository / name)
                say(
                    f"{name}: version {version} answers {trial.images} images as its graph does, {trial.same_class} of "
                    f"them with the class of version {former.version}; {trial.tiers} tiers answer"
                )
        except HeatserveError as error:
            versions.discard(model)
            return failed(
                SwitchOutcome.FAILED_TRIAL if isinstance(error, ServingError) else SwitchOutcome.REFUSED, error
            )
        try:
            versions.replace(model)
        except (HeatserveError, OSError) as error:
            versions.discard(model)
            return failed(SwitchOutcome.FAILED_LOAD, error)
        say(f"{name}: version {version} is served")
        return self._pinned(name, pin, former, began, say)

    def _pinned(self, name: str, pin: Pin, former: ModelVersion, began: float, say: Say) -> Switch:
        reason = ""
        try:
            write_pin(self._repository, name, pin)
        except OSError as error:
            reason = (
                f"{error.filename}: expected a folder to note in which version is served, found: {error.strerror}; a "
                "server that is started again serves the newest"
            )
            say(reason)
        seconds = time.monotonic() - began
        return self._told(Switch(name, pin.version, former.version, SwitchOutcome.SWITCHED, reason, seconds))

    def _told(self, switch: Switch) -> Switch:
        self._on_switch(switch)
        return switch

    def _model(self, name: str) -> ModelVersion:
        models = {model.name: model for model in self._versions().models}
        if name not in models:
            raise HeatserveError(f"{name}: expected a model that is served: {', '.join(models)}")
        return models[name]

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise HeatserveError(
                "expected to switch one model at a time, found that a switch is under way; wait for it"
            )
        try:
            yield
        finally:
            self._busy.release()


def check_same_contract(former: ModelVersion, new: ModelVersion) -> None:
    """Refuse a version that callers of the former one could not go on to ask.

    Raises:
        HeatserveError: its certificate is of another kind, it takes another input, or answers with other classes.
    """
    advice = "export it under another name, or restart the server for it"
    for field in CONTRACT_FIELDS:
        theirs, ours = getattr(former.card, field), getattr(new.card, field)
        if theirs != ours:
            raise HeatserveError(
                f"{new.name} version {new.version}: {field}: expected that of version {former.version}, {theirs}, "
                f"which callers rely on, got {ours}; {advice}"
            )
