"""Waiting for new versions of the models that are served, and switching to each that passes its trial."""

from __future__ import annotations

import threading
from pathlib import Path

from heatserve.export.repository.layout import version_dirs
from heatserve.export.repository.pins import Pin, read_pin, write_pin
from heatserve.serving.switching.switcher import Say, Switcher, SwitchOutcome

_LOOK_SECONDS = 2.0

_State = tuple[tuple[str, int, int], ...]


class VersionWatch:
    """A thread that looks for versions that are newer than those that are served.

    A version that somebody went back from is left alone, and so is one that failed, until a file of it changes: it may
    have been half copied.
    """

    def __init__(self, repository: Path, switcher: Switcher, *, say: Say) -> None:
        """Describe it; `start` begins.

        Args:
            repository: that is served.
            switcher: of the server.
            say: told what is done, in words for the operator.
        """
        self._repository = repository
        self._switcher = switcher
        self._say = say
        self._failed = dict[Path, _State]()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heatserve-versions", daemon=True)

    def start(self) -> None:
        """Pin what is served, so that a server that is started again serves no version that was not tried; begin."""
        for name, version in self._switcher.served.items():
            if read_pin(self._repository, name) is None:
                try:
                    write_pin(self._repository, name, Pin(version))
                except OSError as error:
                    self._say(f"{error.filename}: cannot be written ({error.strerror}); what is served is not pinned")
        self._thread.start()

    def stop(self) -> None:
        """Begin no other switch."""
        self._stopped.set()

    def _run(self) -> None:
        said = ""
        while not self._stopped.wait(_LOOK_SECONDS):
            for name, version in self._switcher.served.items():
                try:
                    self._look(name, version)
                except Exception as error:  # another switch is under way, or a file cannot be read
                    if str(error) != said:
                        self._say(str(error))
                    said = str(error)

    def _look(self, name: str, served: int) -> None:
        pin = read_pin(self._repository, name)
        for path in reversed(version_dirs(self._repository / name)):
            version, state = int(path.name), _state(path)
            if version <= served:
                return
            if self._failed.get(path) == state or (pin and version in pin.passed_over):
                continue
            if self._switcher.switch(name, version, say=self._say).outcome is SwitchOutcome.SWITCHED:
                return
            self._failed[path] = state


def _state(path: Path) -> _State:
    """What changes where a file of a version does: names, sizes and dates."""
    looks = ((file.name, file.stat()) for file in sorted(path.iterdir()))
    return tuple((name, look.st_size, look.st_mtime_ns) for name, look in looks)
