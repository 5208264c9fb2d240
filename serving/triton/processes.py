"""The processes of a Triton as Linux sees them (`/proc`): which run model instances, and how they are."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MEANING = {
    signal.SIGKILL: "by another process, or by the kernel for want of memory: see `dmesg`",
    signal.SIGTERM: "by another process",
    signal.SIGABRT: "it gave up",
    signal.SIGSEGV: "it crashed",
    signal.SIGBUS: "it crashed; is there room in /dev/shm?",
}
STUB = "triton_python_backend_stub"
"""The program that runs a model instance of Triton's Python backend: STUB …/MODEL/VERSION/FILE … INSTANCE BACKEND."""
_TICKS = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the name of the program, counted from 0 (`man proc_pid_stat` counts from 3).
_STATE, _PARENT, _USER_TIME, _SYSTEM_TIME, _START, _EXIT = 0, 1, 11, 12, 19, 49


@dataclass(frozen=True)
class Look:
    """A process at one moment.

    `state` is the kernel's letter, and Z also for a process that is gone; `seconds` is the time of a core that it has
    used; `status` is how a process ended that its parent has not asked about yet, as `wait` gives it: 0, if in order.
    """

    state: str
    seconds: float = 0.0
    status: int = 0

    @property
    def is_dead(self) -> bool:
        """Whether it has ended."""
        return self.state in "ZX"

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or a debugger holds it."""
        return self.state in "Tt"


@dataclass(frozen=True)
class Process:
    """A process that cannot be taken for a later one of the same number.

    `instance` is the name of the model instance that it runs, and `model` that of the model; Triton itself has neither.
    """

    pid: int
    started: int
    model: str = ""
    instance: str = ""

    def look(self) -> Look:
        """How it is now."""
        fields = _stat(self.pid)
        if not fields or int(fields[_START]) != self.started:
            return Look("Z")
        seconds = (int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME])) / _TICKS
        return Look(fields[_STATE], seconds, int(fields[_EXIT]) if fields[_STATE] in "ZX" else 0)


def process_of(pid: int) -> Process:
    """The process that has this number now."""
    fields = _stat(pid)
    return Process(pid, int(fields[_START]) if fields else 0)


def triton_and_instances(pid: int) -> tuple[Process, ...]:
    """Triton, and after it the processes in which its `python` backend runs model instances.

    Args:
        pid: of a Triton whose models are ready.
    """
    found = [process_of(pid)]
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields and int(fields[_PARENT]) == pid:
            command = _command(folder)
            if Path(command[0]).name == STUB and (model := model_of(command)):
                found.append(Process(int(folder.name), int(fields[_START]), model, command[-2]))
    return tuple(found)


def model_of(command: Sequence[str]) -> str:
    """The model of an instance by its command; nothing where it has none, as while it starts or ends."""
    parts = Path(command[1]).parts if len(command) > 1 else ()
    return parts[-3] if len(parts) > 2 else ""


def ending(status: int) -> str:
    """How a process ended, in words, with what is known of the signal that ended it.

    Args:
        status: as `Look.status`.
    """
    number = status & 0x7F
    if not number:
        return f"ended with exit code {status >> 8}" if status else "ended in order, as another process asked it to"
    try:
        known = signal.Signals(number)
    except ValueError:
        return f"was ended by signal {number}"
    meaning = _MEANING.get(known, "")
    return f"was ended by {known.name}" + (f" ({meaning})" if meaning else "")


def _stat(pid: int) -> list[str]:
    """The fields of a process after its name; none where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return []


def _command(folder: Path) -> list[str]:
    try:
        return (folder / "cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return [""]
