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
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from heatserve.serving.observed.families import RESTARTS
from heatserve.serving.observed.recorder import FOLDER_VARIABLE, Recorder
from heatserve.serving.tiers.protocol import EXPLAINED, connected, socket_folder
from heatserve.serving.triton import guarded_exec
from heatserve.serving.triton.processes import ending

MOST_DEATHS = 3
DEATHS_SECONDS = 60.0
"""A voter that ends more often than that within this time is not started again."""

_VOTER = """\
import sys

sys.path[:] = {path!a} + [folder for folder in sys.path if folder]

from heatserve.serving.tiers.voter import main

main(sys.argv[1:])
"""
_PAUSE_SECONDS = 0.1
_RESTART = ("voter", "ended")  # in the metrics


@dataclass(frozen=True)
class VoterPlan:
    """What one voter is started on."""

    model: str
    version_dir: Path
    batch_size: int
    threads: int
    most_open: int
    """Images of all tiers of the model that may wait for votes at once."""


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
            folder: the server's, for this user only, in which they listen.
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
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        self._processes = dict[str, subprocess.Popen[bytes]]()
        self._threads = list[threading.Thread]()
        self._log: BinaryIO | None = None
        self.has_given_up = False
        """Whether one of them cannot be kept alive."""

    def start(self, log: BinaryIO, lock: int) -> None:
        """Start them.

        Args:
            log: what they write goes here; it is closed when they are stopped.
            lock: the descriptor of the server's lock, which they inherit.
        """
        self._log = log
        for plan in self._plans:
            thread = threading.Thread(
                target=self._keep, args=(plan, lock), name=f"heatserve-voter-{plan.model}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def are_ready(self) -> bool:
        """Whether all of them take questions."""
        try:
            for plan in self._plans:
                connected(socket_folder(self._folder, plan.model)).close()
        except OSError:
            return False
        return True

    def process_of(self, model: str) -> int:
        """The process that votes for a model now."""
        return self._processes[model].pid

    def stop(self) -> None:
        """End them, at once: nobody asks any more."""
        with self._starting:
            self._stopped.set()
            for process in self._processes.values():
                process.kill()
        for thread in self._threads:
            thread.join()
        if self._log is not None:
            self._log.close()

    def _keep(self, plan: VoterPlan, lock: int) -> None:
        deaths = deque[float](maxlen=MOST_DEATHS + 1)
        while True:
            with self._starting:
                if self._stopped.is_set():
                    return
                try:
                    process = self._processes[plan.model] = self._spawn(plan, lock)
                except OSError as error:  # no process is left, or the server's folder was removed
                    problem = f"it cannot be started: {error.strerror}: {error.filename}"
                    break
            code = process.wait()
            if self._stopped.wait(_PAUSE_SECONDS):
                return
            deaths.append(time.monotonic())
            how = ending(-code if code < 0 else code << 8)
            if code == EXPLAINED or (len(deaths) > MOST_DEATHS and deaths[-1] - deaths[0] < DEATHS_SECONDS):
                times = f" {len(deaths)} times within {DEATHS_SECONDS:g} s, the last time it" if len(deaths) > 1 else ""
                problem = f"it{f' ended{times}' if times else ''} {how}"
                break
            self._recorder.add(RESTARTS, *_RESTART)
            with suppress(OSError, ValueError):
                self._log.write(f"heatserve: the voter of {plan.model} {how}; it is started again\n".encode())  # type: ignore[union-attr]
        self.has_given_up = True
        self._on_problem(
            f"{plan.model}: expected a running process that takes the votes of its tiers, found that {problem}"
        )

    def _spawn(self, plan: VoterPlan, lock: int) -> subprocess.Popen[bytes]:
        numbers = (plan.batch_size, plan.threads, plan.most_open)
        arguments = [str(plan.version_dir), str(socket_folder(self._folder, plan.model)), *map(str, numbers)]
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
            pass_fds=[lock],
            start_new_session=True,
        )
