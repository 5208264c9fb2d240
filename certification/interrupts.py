"""A Ctrl-C that code of others swallows."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def passing_interrupts() -> Iterator[None]:
    """Let a Ctrl-C out, whatever the code within makes of it: an import may catch it, and fail later of half a module.

    Where something else than Python itself takes the signal, or in another than the main thread, nothing is changed.

    Raises:
        KeyboardInterrupt: a SIGINT came.
    """
    main, before = threading.current_thread() is threading.main_thread(), signal.default_int_handler
    if not main or signal.getsignal(signal.SIGINT) is not before:
        yield
        return
    came = list[int]()

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt  # in place of any error
