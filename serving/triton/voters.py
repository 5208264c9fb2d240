"""The processes that vote, one for each model with tiers: started, started again when they end, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from heatserve.serving.errors import EXPLAINED
from heatserve.serving.observed.families import RESTARTS
from heatserve.serving.observed.recorder import FOLDER_VARIABLE, Recorder
from heatserve.serving.triton import guarded_exec
from heatserve.serving.triton.processes import ending, process_of
from heatserve.serving.unix_sockets import connected

MOST_DEATHS = 3
DEATHS_SECONDS = 60.0
"""A voter that ends more often than that within this time is not started again."""
STOPPED_VOTER_LOOKS = 15
"""In a row, one a second: a voter that a signal or a debugger holds so long is ended. Deadlines are kept meanwhile."""

_VOTER = """\
import sys

sys.path[:] = {path!a} + [folder for folder in sys.path if folder]

from heatserve.serving.tiers.voter import main

main(sys.argv[1:])
"""
_PAUSE_SECONDS, _LOOK_SECONDS = 0.1, 1.0
_RESTART = ("voter", "ended")  # in the metrics


@dataclass(frozen=True)
class VoterPlan:
    """What one voter is started on."""

    model: str
    version_dir: Path
    sockets: Path
    """The folder in which it listens."""
    batch_size: int
    threads: int
    most_open: int
    """Images of all tiers of the model that may wait for votes at once."""


@dataclass(eq=False)
class _Keeper:
    """What keeps one voter alive."""

    plan: VoterPlan
    is_needed: bool
    """Whether the server cannot go on without it."""
    thread: threading.Thread | None = None
    process: subprocess.Popen[bytes] | None = None
    problem: str = ""
    """Why it cannot be kept alive."""
    stopped: threading.Event = field(default_factory=threading.Event)


class Voters:
    """The voters of one server, each kept alive by a thread."""

    def __init__(
        self,
        plans: Sequence[VoterPlan],
        folder: Path,
        *,
        modules: Sequence[str],
        environment: dict[str, str],
        on_problem: Callable[[str], object],
    ) -> None:
        """Describe the voters; `start` starts them.

        Args:
            plans: what they are started on.
            folder: the server's, for this user only.
            modules: where their Python looks for modules.
            environment: that of the voters; it names the folder of metrics.
            on_problem: called from a thread where one cannot be kept alive, with what was expected and found.
        """
        self._plans = plans
        self._folder = folder
        self._code = _VOTER.format(path=list(modules))
        self._environment = environment
        self._on_problem = on_problem
        metrics = environment.get(FOLDER_VARIABLE)
        self._recorder = Recorder(Path(metrics) if metrics else None)
        self._recorder.add(RESTARTS, *_RESTART, by=0)
        self._starting = threading.Lock()
        self._keepers = dict[VoterPlan, _Keeper]()
        self._is_stopped = False
        self._log: BinaryIO | None = None
        self._lock = -1
        self.has_given_up = False
        """Whether one of them cannot be kept alive."""

    def start(self, log: BinaryIO, lock: int) -> None:
        """Start them.

        Args:
            log: what they write goes here; it is closed when they are stopped.
            lock: the descriptor of the server's lock, which they inherit.
        """
        self._log, self._lock = log, lock
        for plan in self._plans:
            self.add(plan, is_needed=True)

    def add(self, plan: VoterPlan, *, is_needed: bool) -> None:
        """Start one more; where it cannot be kept alive, `on_problem` is called only if it is needed."""
        name = f"heatserve-voter-{plan.model}"
        with self._starting:
            if self._is_stopped:
                return
            keeper = self._keepers[plan] = _Keeper(plan, is_needed)
            keeper.thread = threading.Thread(target=self._keep, args=(keeper,), name=name, daemon=True)
            keeper.thread.start()

    def need(self, plan: VoterPlan) -> None:
        """From now on the server cannot go on without this one."""
        with self._starting:
            keeper = self._keepers.get(plan)
            if keeper is None:  # they were stopped meanwhile
                return
            keeper.is_needed = True
        if keeper.problem:
            self._give_up(keeper)

    def problem_of(self, plan: VoterPlan) -> str:
        """Why a voter cannot be kept alive; nothing where it can."""
        keeper = self._keepers.get(plan)
        return keeper.problem if keeper else "Triton ended meanwhile, and its voters with it"

    def are_ready(self) -> bool:
        """Whether all of them take questions."""
        return all(map(self.is_ready, list(self._keepers)))

    def is_ready(self, plan: VoterPlan) -> bool:
        """Whether this one takes questions."""
        try:
            connected(plan.sockets).close()
        except OSError:
            return False
        return True

    def process_of(self, model: str) -> int:
        """The process that votes for a model now, for the version that was added last."""
        *_, process = [keeper.process for plan, keeper in self._keepers.items() if plan.model == model]
        assert process is not None
        return process.pid

    def remove(self, plan: VoterPlan) -> None:
        """End one that nobody asks any more."""
        with self._starting:
            keeper = self._keepers.pop(plan, None)
            if keeper is not None:
                self._end(keeper)
        if keeper is not None and keeper.thread is not None:
            keeper.thread.join()

    def stop(self) -> None:
        """End them, at once: nobody asks any more."""
        with self._starting:
            self._is_stopped = True
            for keeper in self._keepers.values():
                self._end(keeper)
        for keeper in self._keepers.values():
            if keeper.thread is not None:
                keeper.thread.join()
        if self._log is not None:
            self._log.close()

    def _end(self, keeper: _Keeper) -> None:
        keeper.stopped.set()
        if keeper.process is not None:
            keeper.process.kill()

    def _keep(self, keeper: _Keeper) -> None:
        plan, deaths = keeper.plan, deque[float](maxlen=MOST_DEATHS + 1)
        while True:
            with self._starting:
                if keeper.stopped.is_set():
                    return
                try:
                    process = keeper.process = self._spawn(plan)
                except OSError as error:  # no process is left, or the server's folder was removed
                    problem = f"it cannot be started: {error.strerror}: {error.filename}"
                    break
            code, how = _ended(process)
            if keeper.stopped.wait(_PAUSE_SECONDS):
                return
            deaths.append(time.monotonic())
            if code == EXPLAINED or (len(deaths) > MOST_DEATHS and deaths[-1] - deaths[0] < DEATHS_SECONDS):
                times = f" {len(deaths)} times within {DEATHS_SECONDS:g} s, the last time it" if len(deaths) > 1 else ""
                problem = f"it{f' ended{times}' if times else ''} {how}"
                break
            self._recorder.add(RESTARTS, *_RESTART)
            with suppress(OSError, ValueError):
                self._log.write(f"heatserve: the voter of {plan.model} {how}; it is started again\n".encode())  # type: ignore[union-attr]
        with self._starting:
            keeper.problem = problem
        if keeper.is_needed:
            self._give_up(keeper)

    def _give_up(self, keeper: _Keeper) -> None:
        self.has_given_up = True
        self._on_problem(
            f"{keeper.plan.model}: expected a running process that takes the votes of its tiers, found that "
            f"{keeper.problem}"
        )

    def _spawn(self, plan: VoterPlan) -> subprocess.Popen[bytes]:
        numbers = (plan.batch_size, plan.threads, plan.most_open)
        arguments = [str(plan.version_dir), str(plan.sockets), *map(str, numbers)]
        return subprocess.Popen(
            [
                # SIGKILL: it has nothing to clean up, and another signal does not end one that is stopped
                *(sys.executable, "-IS", guarded_exec.__file__, str(os.getpid()), str(int(signal.SIGKILL)), "0"),
                *(sys.executable, "-I", "-c", self._code, *arguments),
            ],
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[self._lock],
            start_new_session=True,
        )


def _ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Wait until a voter ends, and end one that is stopped: its exit code, and how it ended, in words."""
    look, stopped = process_of(process.pid).look, 0
    while True:
        try:
            code = process.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            stopped = stopped + 1 if look().is_stopped else 0
            if stopped >= STOPPED_VOTER_LOOKS:
                process.kill()
                return process.wait(), f"was stopped for {stopped * _LOOK_SECONDS:g} s, and is ended"
        else:
            return code, ending(-code if code < 0 else code << 8)
