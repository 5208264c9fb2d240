"""Become another program, which ends when its parent does: `python guarded_exec.py PARENT SIGNAL FILE_BYTES PROGRAM …`.

The kernel ends a program by the signal so asked even where the parent was killed without a chance to clean up. To ask
after a fork and before the exec (`preexec_fn`) is unsafe in a parent with threads, hence this step between. What the
program and its children make is for this user only, and no file of theirs, shared memory included, grows beyond
`FILE_BYTES` (0: any size).
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


def main() -> None:
    """Ask for a signal at the parent's end, set the limits, then execute the program."""
    parent, end, file_bytes, program = *map(int, sys.argv[1:4]), sys.argv[4:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, end)
    if os.getppid() != parent:  # it ended before we could ask
        sys.exit(1)
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection takes a descriptor
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    if file_bytes and not 0 <= most < file_bytes:
        # Python ignores the signal that comes with a file too large, and so does the program: it gets the error EFBIG.
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, most))
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
