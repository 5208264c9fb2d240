"""ONNX Runtime sessions, all of a process on one pool of threads, and the functions that they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.certification.voting import Classifier
from heatserve.export.contract import Outputs
from heatserve.export.onnxruntime_start import start_onnxruntime

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_BATCH = 64  # images in one run: memory stays small whatever their number and size

Runner = Callable[[NDArray[Any]], Outputs]
"""What is served, as a function: from any number of images FP32 [N, C, H, W], N ≥ 1, or of pictures UINT8 [N, H, W, C]
for a graph that takes those, to its outputs by name."""

_PROVIDERS = {
    None: ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class GraphError(HeatserveError):
    """ONNX Runtime cannot load a graph."""


class AcceleratorMissingError(GraphError):
    """ONNX Runtime has no provider for a GPU here, or cannot start it: no graph would load."""


def open_session(
    graph: Path | bytes,
    *,
    accelerator: Literal["cuda", "tensorrt"] | None = None,
    options: Mapping[str, str] = MappingProxyType({}),
    optimised: bool = True,
) -> InferenceSession:
    """A session on a file or on serialised bytes, on the process's one pool of threads.

    Args:
        graph: ONNX.
        accelerator: the provider that runs what it can of the graph. None: the CPU runs all of it.
        options: the options of that provider.
        optimised: let ONNX Runtime rewrite the graph before it runs; otherwise it runs as it is written.

    Raises:
        AcceleratorMissingError: ONNX Runtime has no such provider, or cannot start it.
        GraphError: names the file and says what ONNX Runtime found wrong.
    """
    onnxruntime = start_onnxruntime()
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3
    session_options.use_per_session_threads = False
    if not optimised:
        session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    first, *others = _PROVIDERS[accelerator]
    providers = [(first, dict(options)), *others]
    if first not in onnxruntime.get_available_providers():
        raise _absent(first)
    try:
        source = str(graph) if isinstance(graph, Path) else graph
        session: InferenceSession = onnxruntime.InferenceSession(source, session_options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        name = graph if isinstance(graph, Path) else "graph"
        raise GraphError(f"{name}: ONNX Runtime cannot load it: {error}") from None
    if first not in session.get_providers():  # it goes on without what did not load
        raise _absent(first)
    return session


def _absent(provider: str) -> AcceleratorMissingError:
    return AcceleratorMissingError(
        f"{provider}: expected an ONNX Runtime that runs the graph with it, found one of "
        f"{', '.join(start_onnxruntime().get_available_providers())}; that needs an NVIDIA GPU with its driver, and "
        "`pip install 'heatserve[gpu,tensorrt]'` in place of onnxruntime"
    )


def run(session: InferenceSession, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """All outputs of a graph by name, for any number of images FP32 [N, C, H, W], N ≥ 1.

    A graph that takes UINT8 [N, H, W, C] is given the images in that form.

    Raises:
        GraphError: the graph takes UINT8, and the images are not of 8 bits.
    """
    names = [output.name for output in session.get_outputs()]
    return infer_in_batches(
        lambda batch: dict(zip(names, session.run(names, {"image": batch}), strict=True)), as_input(session, images)
    )


def infer_in_batches(
    infer: Callable[[NDArray[Any]], dict[str, NDArray[Any]]], tensor: NDArray[Any], *, size: int = _BATCH
) -> dict[str, NDArray[Any]]:
    """The outputs of `infer` for a tensor [N, …], which it is given at most `size` rows of at a time."""
    parts = [infer(tensor[start : start + size]) for start in range(0, len(tensor), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def as_input(session: InferenceSession, images: NDArray[Any]) -> NDArray[Any]:
    """Images FP32 [N, C, H, W] in [0,1] as the tensor that a graph takes.

    Raises:
        GraphError: see `run`.
    """
    return as_levels(images) if session.get_inputs()[0].type == "tensor(uint8)" else images


def as_levels(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images FP32 [N, C, H, W] in [0,1] as UINT8 [N, H, W, C], which pictures in UINT8 are already.

    Raises:
        GraphError: they are not of 8 bits.
    """
    if images.dtype == np.uint8:
        return images
    levels = np.rint(images * np.float32(255)).astype(np.uint8)
    if not np.array_equal(levels / np.float32(255), images):
        raise GraphError("image: expected 8-bit images, multiples of 1/255 in [0,1], for a graph that takes UINT8")
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def classifier(session: InferenceSession) -> Classifier:
    """A logits graph as the function from images to scores that Monte Carlo certification takes."""
    return lambda images: session.run(["logits"], {"image": images})[0]
