"""`python -m heatserve.export.graph.imported.probe GRAPH TENSOR BATCHES OUT`: somebody's graph, run by itself.

A graph that somebody made may ask for any amount of memory, compute for ever, or crash the engine. So it runs in a
process of its own, with bounds, before anything in this one touches it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from heatserve.export.graph.imported.errors import OnnxFileError
from heatserve.export.graph.imported.own_process import bound_memory, run_by_itself
from heatserve.export.onnxruntime_start import start_onnxruntime


def answers_of(path: object, model: onnx.ModelProto, tensor: NDArray[Any], *, batches: Sequence[int]) -> NDArray[Any]:
    """The first output of a model for a tensor [n, …], once for each size of batch, [b, n, …]; in another process.

    Raises:
        OnnxFileError: ONNX Runtime refuses the graph or fails on it, or it needs too much time or memory.
    """
    with TemporaryDirectory(prefix="heatserve-onnx-") as folder:
        graph, data, out = (Path(folder) / name for name in ("model.onnx", "tensor.npy", "answers.npy"))
        onnx.save(model, graph)
        np.save(data, tensor)
        said = run_by_itself(path, __name__, [graph, data, ",".join(map(str, batches)), out], folder=folder)
        if said is not None:
            raise OnnxFileError(f"{path}: ONNX Runtime cannot run it: {said}")
        answers: NDArray[Any] = np.load(out)
        return answers


def _said(error: Exception) -> str:
    """What an error of ONNX Runtime says, and of which node, without the places in its own source."""
    text = " ".join(str(error).split())
    node = re.search(r"running (\w+) node\. Name:'(?:file\.)?([^']*)'", text)
    reason = text.rpartition("Status Message: ")[2].rpartition("[ONNXRuntimeError] : ")[2]
    reason = re.sub(r"^/\S+:\d+ .*? was false\. ", "", reason)
    return f"node {node[2]!r} ({node[1]}): {reason}" if node else reason or type(error).__name__


def _probe(graph: Path, tensor: NDArray[Any], batches: Sequence[int]) -> NDArray[Any]:
    onnxruntime = start_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.use_per_session_threads = False
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    name = session.get_outputs()[0].name
    runs = [
        [session.run([name], {given.name: tensor[start : start + batch]})[0] for start in range(0, len(tensor), batch)]
        for batch in batches
    ]
    return np.stack([np.concatenate(parts) for parts in runs])


def main(arguments: list[str]) -> None:
    """Run the graph and write its answers; what ONNX Runtime says against it goes to stderr."""
    graph, data, batches, out = arguments
    bound_memory(Path(graph))
    try:
        answers = _probe(Path(graph), np.load(data), tuple(map(int, batches.split(","))))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        sys.exit(_said(error))
    np.save(out, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
