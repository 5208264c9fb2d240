"""A process of its own that calls functions for this one: who asks and who is timed share no interpreter."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import ParamSpec, TypeVar

from heatserve.certification.errors import HeatserveError

P = ParamSpec("P")
R = TypeVar("R")


class Helper:
    """The process, as a context manager. It answers one call at a time."""

    def __init__(self) -> None:
        """Start it. It is a new interpreter, not a copy of this one: gRPC and ONNX Runtime survive no fork."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer_calls, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    def __enter__(self) -> Helper:
        """Nothing to do: it runs since it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it, whatever it does."""
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def start(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
        """Have it call a function of a module; the value that is returned waits for the answer and gives it.

        Raises:
            HeatserveError: (when waiting) the process ended before it answered.
            Exception: (when waiting) what the function raised.
        """
        self._pipe.send((function, args, kwargs))

        def wait() -> R:
            try:
                answer, error = self._pipe.recv()
            except EOFError:
                self._process.join()
                raise HeatserveError(
                    f"expected an answer of the process that runs {function.__name__}, found that it ended with exit "
                    f"code {self._process.exitcode}"
                ) from None
            if error is not None:
                raise error
            found: R = answer
            return found

        return wait


def _answer_calls(pipe: Pipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for our parent, which ends us
    while True:
        try:
            function, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(*args, **kwargs), None))
        except Exception as error:
            pipe.send((None, error))
