"""The engines of one machine, each as a function from a probe's graph to its answers.

An engine that is added here, or handed to `conformance`, is held to the same meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from heatserve.certification.errors import HeatserveError
from heatserve.export.repository.layout import TENSORRT_BATCHES
from heatserve.export.runtime.session import AcceleratorMissingError, Runner, open_session, run
from heatserve.export.runtime.tensorrt import TensorRTError, build_plan, open_plan, plan_part, require_tensorrt
from heatserve.serving.conformance.probe import Probe

Engine = Callable[[Probe], AbstractContextManager[Runner]]
"""Answers with a probe's graph for as long as its context lasts.

Raises:
    EngineMissingError: this machine cannot run it.
"""


class EngineMissingError(HeatserveError):
    """This machine cannot run an engine; says what is missing."""


@contextmanager
def _served(probe: Probe) -> Iterator[Runner]:
    yield partial(run, open_session(probe.graph))


@contextmanager
def _not_optimised(probe: Probe) -> Iterator[Runner]:
    yield partial(run, open_session(probe.graph, optimised=False))


@contextmanager
def _reference(probe: Probe) -> Iterator[Runner]:
    evaluator = ReferenceEvaluator(onnx.load_from_string(probe.graph))

    def answer(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # some networks here divide by zero
            return dict(zip(evaluator.output_names, evaluator.run(None, {"image": images}), strict=True))

    yield answer


def _on_gpu(accelerator: Literal["cuda", "tensorrt"]) -> Engine:
    @contextmanager
    def engine(probe: Probe) -> Iterator[Runner]:
        try:
            session = open_session(probe.graph, accelerator=accelerator)
        except AcceleratorMissingError as error:
            raise EngineMissingError(str(error)) from None
        yield partial(run, session)

    return engine


@contextmanager
def _tensorrt(probe: Probe) -> Iterator[Runner]:
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
