"""What a server needs to be switched: a socket for commands, and, where the operator wants it, a watch for versions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from heatserve.certification.errors import HeatserveError
from heatserve.serving.switching.control import ControlAnswer, ControlSocket
from heatserve.serving.switching.switcher import Say, Switch, Switcher
from heatserve.serving.switching.watching import VersionWatch

if TYPE_CHECKING:
    from heatserve.serving.triton.served import ServedVersions

SWITCH, ROLL_BACK = "switch", "roll back"
"""What a command may ask for, as the field `do` of its request."""


class Switching:
    """Switches a running server as commands ask for, as a context manager inside that of the server."""

    def __init__(
        self,
        repository: Path,
        versions: Callable[[], ServedVersions],
        *,
        watch: bool = False,
        say: Say = lambda _: None,
        on_switch: Callable[[Switch], object] = lambda _: None,
    ) -> None:
        """Describe it.

        Args:
            repository: that is served.
            versions: those that are served now.
            watch: whether to switch to each new version that passes its trial.
            say: told what is done, in words for the operator; called by several threads.
            on_switch: called with each version that was to be served, by several threads.
        """
        self.switcher = Switcher(repository, versions, on_switch=on_switch)
        self._repository = repository
        self._say = say
        self._watches = watch
        self._saying = threading.Lock()
        self._cleanup = ExitStack()

    def __enter__(self) -> Switching:
        """Take requests of commands from now on."""
        with ExitStack() as cleanup:
            cleanup.enter_context(ControlSocket(self._repository, self._handle))
            if self._watches:
                watch = VersionWatch(self._repository, self.switcher, say=self._tell)
                watch.start()
                cleanup.callback(watch.stop)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take no more requests."""
        self._cleanup.close()

    def _tell(self, text: str) -> None:
        with self._saying:
            self._say(text)

    def _handle(self, request: dict[str, Any], send: Callable[[ControlAnswer], None]) -> None:
        def say(text: str) -> None:
            self._tell(text)
            send({"says": text})

        name, version = request.get("model"), request.get("version")
        if not isinstance(name, str) or not (version is None or type(version) is int):
            raise HeatserveError("expected the name of a model, and the number of a version or none")
        if request.get("do") == SWITCH:
            done = self.switcher.switch(name, version, say=say)
        elif request.get("do") == ROLL_BACK:
            done = self.switcher.roll_back(name, version, say=say)
        else:
            raise HeatserveError(f"do: expected {SWITCH!r} or {ROLL_BACK!r}")
        send({**asdict(done), "outcome": done.outcome.value})
