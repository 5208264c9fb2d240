"""Somebody's graph in a process of its own, with bounds on time and memory, before anything in this one touches it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from heatserve.export.graph.imported.errors import OnnxFileError

_SECONDS = 600
_LEAST_BYTES = 8 * 2**30
"""Of address space: what ONNX Runtime, and a network on a few images, need."""
_COPIES = 6
"""Of the weights, that ONNX Runtime may make while it loads them."""


def run_by_itself(path: object, module: str, arguments: Sequence[object], *, folder: str) -> str | None:
    """Run a module of ours; None: it did its work, otherwise what it said against the graph.

    Args:
        path: the file that the graph is from, for messages.
        module: its `main` takes the arguments.
        arguments: of the command line.
        folder: where it runs, one of ours: `-m` looks there first, and a module beside somebody's file would run.

    Raises:
        OnnxFileError: it crashed, or took too long.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise OnnxFileError(f"{path}: expected an answer within {_SECONDS} s, got none") from None
    if done.returncode < 0:
        library = _LIBRARIES[module.rpartition(".")[2]]
        raise OnnxFileError(f"{path}: {library} crashed on it, by signal {-done.returncode}")
    return done.stderr.strip()[-2000:] if done.returncode else None


_LIBRARIES = {"probe": "ONNX Runtime", "conversion": "ONNX"}
"""What a module runs a graph with."""


def bound_memory(graph: Path) -> None:
    """Let this process have no more address space than a graph of that size may need."""
    most = max(_LEAST_BYTES, _COPIES * graph.stat().st_size)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
