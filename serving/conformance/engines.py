"""All engines that heatserve can answer with, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from heatserve.export.contract import Outputs
from heatserve.export.repository.layout import TENSORRT_BATCHES
from heatserve.export.runtime.session import AcceleratorMissingError, Runner, open_session, run
from heatserve.export.runtime.tensorrt import TensorRTError, build_plan, open_plan, plan_part, require_tensorrt
from heatserve.serving.conformance.engine import Engine, EngineMissingError, ProbeUnfitError
from heatserve.serving.conformance.probe import Probe
from heatserve.serving.conformance.triton import triton_engine
from heatserve.serving.errors import ServingError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@contextmanager
def _onnxruntime(probe: Probe) -> Iterator[Runner]:
    yield partial(run, open_session(probe.graph))


@contextmanager
def _not_optimised(probe: Probe) -> Iterator[Runner]:
    yield partial(run, open_session(probe.graph, optimised=False))


@contextmanager
def _reference(probe: Probe) -> Iterator[Runner]:
    evaluator = ReferenceEvaluator(onnx.load_from_string(probe.graph))

    def answer(images: NDArray[Any]) -> Outputs:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # some networks here divide by zero
            return dict(zip(evaluator.output_names, evaluator.run(None, {"image": images}), strict=True))

    yield answer


def on_accelerator(
    accelerator: Literal["cuda", "tensorrt"], *, opener: Callable[..., InferenceSession] = open_session
) -> Engine:
    """ONNX Runtime with its provider for a GPU.

    Args:
        accelerator: see `open_session`.
        opener: opens the session.
    """

    @contextmanager
    def engine(probe: Probe) -> Iterator[Runner]:
        if accelerator == "tensorrt":
            _check_fits_tensorrt(probe)
        try:
            session = opener(probe.graph, accelerator=accelerator)
        except AcceleratorMissingError as error:
            raise EngineMissingError(str(error)) from None
        yield partial(run, session)

    return engine


def _check_fits_tensorrt(probe: Probe) -> None:
    if probe.bound:
        raise ProbeUnfitError("TensorRT has no float64, in which deterministic certificates are computed")


def with_plan(*, require: Callable[[], None] = require_tensorrt, build: Callable[..., bytes] = build_plan) -> Engine:
    """A TensorRT plan of each graph, as `heatserve export --backend tensorrt` builds it.

    Args:
        require: raises TensorRTError where no plan can be built.
        build: makes the plan.
    """

    @contextmanager
    def engine(probe: Probe) -> Iterator[Runner]:
        try:
            require()
        except TensorRTError as error:
            raise EngineMissingError(str(error)) from None
        _check_fits_tensorrt(probe)
        plan = build(probe.graph, batches=TENSORRT_BATCHES, tf32=False, timing_cache=None)
        yield open_plan(plan, plan_part(plan, batches=TENSORRT_BATCHES, tf32=False))

    return engine


ALL_ENGINES: dict[str, Engine] = {
    "onnxruntime": _onnxruntime,
    "onnxruntime without optimisations": _not_optimised,
    "onnx reference": _reference,
    "onnxruntime CUDA": on_accelerator("cuda"),
    "onnxruntime TensorRT": on_accelerator("tensorrt"),
    "tensorrt": with_plan(),
    "triton": triton_engine,
}
"""All engines, by name. One that is added here is examined by `heatserve conformance` like the others."""


def engines_named(names: Sequence[str] | None) -> Mapping[str, Engine]:
    """The engines of these names, in their order; all of them where there are none.

    Raises:
        ServingError: a name that no engine has.
    """
    unknown = [name for name in names or () if name not in ALL_ENGINES]
    if unknown:
        raise ServingError(f"engine: expected one of {', '.join(ALL_ENGINES)}, got {unknown[0]}")
    return {name: ALL_ENGINES[name] for name in names or ALL_ENGINES}
