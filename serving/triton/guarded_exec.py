"""Become another program that ends when its parent does: `python guarded_exec.py PARENT_PID PROGRAM [ARGUMENT…]`.

The kernel ends a program so asked even where the parent was killed without a chance to clean up. To ask after a fork
and before the exec (`preexec_fn`) is unsafe in a parent with threads, hence this step between.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


def main() -> None:
    """Ask for SIGTERM at the parent's end, then execute the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before we could ask
        sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
