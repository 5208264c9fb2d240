"""ONNX Runtime sessions, all of a process on one pool of threads: OMP_NUM_THREADS of them, or one for each core.

With a pool each, which is the default, the idle threads of one session spin on the cores that another one needs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read at import, and on by default

import onnxruntime

from certification.errors import HeatserveError
from certification.voting import Classifier

_wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # Ray sets it to the share of a task
_THREADS = int(_wanted) if _wanted.isdecimal() and int(_wanted) else len(os.sched_getaffinity(0))
onnxruntime.set_global_thread_pool_sizes(_THREADS, 1)

_BATCH = 64  # images in one run: memory stays small whatever their number and size


class GraphError(HeatserveError):
    """ONNX Runtime cannot load a graph."""


def open_session(graph: Path | bytes, *, provider: str = "CPUExecutionProvider") -> onnxruntime.InferenceSession:
    """A session on a file or on serialised bytes, on the process's one pool of threads.

    Args:
        graph: file or bytes.
        provider: ONNX Runtime's execution provider; it leaves to the CPU what it cannot run.

    Raises:
        GraphError: names the file and says what ONNX Runtime found wrong; or that the provider is not here.
    """
    if provider not in onnxruntime.get_available_providers():
        raise GraphError(f"{provider}: not in this build of ONNX Runtime {onnxruntime.__version__}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.use_per_session_threads = False
    try:
        source = str(graph) if isinstance(graph, Path) else graph
        session = onnxruntime.InferenceSession(source, options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        name = graph if isinstance(graph, Path) else "graph"
        raise GraphError(f"{name}: ONNX Runtime cannot load it: {error}") from None
    if session.get_providers()[0] != provider:  # ONNX Runtime falls back without an error
        raise GraphError(f"{provider}: ONNX Runtime {onnxruntime.__version__} has it, but cannot start it here")
    return session


def run(session: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """All outputs of a graph by name, for any number of images FP32 [N, C, H, W], N ≥ 1.

    A graph that takes UINT8 [N, H, W, C] is given them so.

    Raises:
        GraphError: the graph takes UINT8, and the images are not of 8 bits.
    """
    tensor = as_input(session, images)
    names = [output.name for output in session.get_outputs()]
    starts = range(0, len(tensor), _BATCH)
    batches = [session.run(names, {"image": tensor[start : start + _BATCH]}) for start in starts]
    return {name: np.concatenate(parts) for name, *parts in zip(names, *batches, strict=True)}


def as_input(session: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> NDArray[Any]:
    """Images FP32 [N, C, H, W] in [0,1] as the tensor that a graph takes.

    Raises:
        GraphError: see `run`.
    """
    if session.get_inputs()[0].type != "tensor(uint8)":
        return images
    levels = np.rint(images * np.float32(255)).astype(np.uint8)
    if not np.array_equal(levels / np.float32(255), images):
        raise GraphError("image: expected 8-bit images, multiples of 1/255 in [0,1], for a graph that takes UINT8")
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def classifier(session: onnxruntime.InferenceSession) -> Classifier:
    """A logits graph as the function from images to scores that Monte Carlo certification takes."""
    return lambda images: session.run(["logits"], {"image": images})[0]
