"""The engines of one machine, each as a function from a probe's graph to its answers.

An engine that is added here, or handed to `conformance`, is held to the same meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from heatserve.certification.errors import HeatserveError
from heatserve.export.repository.layout import TENSORRT_BATCHES
from heatserve.export.runtime.session import AcceleratorMissingError, open_session
from heatserve.export.runtime.tensorrt import TensorRTError, build_plan, open_plan, plan_part, require_tensorrt
from heatserve.serving.conformance.probe import Probe

if TYPE_CHECKING:
    import onnxruntime

Answer = Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]
"""From a batch of 1 to 64 images to the outputs by name. A refused image has label −1 and radius 0."""
Engine = Callable[[Probe], AbstractContextManager[Answer]]
"""Answers with a probe's graph for as long as its context lasts.

Raises:
    EngineMissingError: this machine cannot run it.
"""


class EngineMissingError(HeatserveError):
    """This machine cannot run an engine; says what is missing."""


@contextmanager
def _served(probe: Probe) -> Iterator[Answer]:
    yield _answer(open_session(probe.graph))


@contextmanager
def _not_optimised(probe: Probe) -> Iterator[Answer]:
    yield _answer(_not_optimised_session(probe.graph))


@contextmanager
def _reference(probe: Probe) -> Iterator[Answer]:
    evaluator = ReferenceEvaluator(onnx.load_from_string(probe.graph))

    def answer(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # some networks here divide by zero
            return dict(zip(evaluator.output_names, evaluator.run(None, {"image": images}), strict=True))

    yield answer


def _on_gpu(accelerator: Literal["cuda", "tensorrt"]) -> Engine:
    @contextmanager
    def engine(probe: Probe) -> Iterator[Answer]:
        try:
            session = open_session(probe.graph, accelerator=accelerator)
        except AcceleratorMissingError as error:
            raise EngineMissingError(str(error)) from None
        yield _answer(session)

    return engine


def _answer(session: onnxruntime.InferenceSession) -> Answer:
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"image": images}), strict=True))


def _not_optimised_session(graph: bytes) -> onnxruntime.InferenceSession:
    import onnxruntime  # after export.session, which turns its telemetry off

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.use_per_session_threads = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@contextmanager
def _tensorrt(probe: Probe) -> Iterator[Answer]:
    """A plan, as `heatserve export --backend tensorrt` builds it."""
    try:
        require_tensorrt()
    except TensorRTError as error:
        raise EngineMissingError(str(error)) from None
    plan = build_plan(probe.graph, batches=TENSORRT_BATCHES, tf32=False, timing_cache=None)
    yield open_plan(plan, plan_part(plan, batches=TENSORRT_BATCHES, tf32=False))


ENGINES: Mapping[str, Engine] = {
    "onnxruntime": _served,
    "onnxruntime without optimisations": _not_optimised,
    "onnx reference": _reference,
    "onnxruntime CUDA": _on_gpu("cuda"),
    "onnxruntime TensorRT": _on_gpu("tensorrt"),
    "tensorrt": _tensorrt,
}
"""Those that need no server."""
