"""ONNX Runtime, imported late: its telemetry off, and all sessions of a process on one pool of threads.

With a pool each, which is ONNX Runtime's default, the idle threads of one session spin on the cores that another needs.
"""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType

from heatserve.certification.cores import usable_cores


@cache
def start_onnxruntime() -> ModuleType:
    """Import ONNX Runtime for this process: its telemetry off, and one pool of threads for all sessions.

    The pool has `pool_threads` threads; schedulers set OMP_NUM_THREADS to the share of a task. Whoever set
    ORT_DISABLE_TELEMETRY keeps it. ONNX Runtime reads that variable when it is imported, at which it would start a
    thread that sends events to its makers: so it is imported here, after the variable is set, and nowhere at the head
    of a module. After this, a session with a pool of its own cannot be opened in this process.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.set_global_thread_pool_sizes(pool_threads(), 1)
    return onnxruntime  # type: ignore[no-any-return]


def pool_threads() -> int:
    """OMP_NUM_THREADS, or one for each core that the process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(wanted) if wanted.isdecimal() and int(wanted) else usable_cores()
