"""TensorRT plans: a certified graph compiled for one GPU, and the function that it is.

The precision is that of the graph: the network is strongly typed, so softmax, certificate and input checks stay in FP32
whatever the rest runs in. TF32 is for convolutions and matrix products, of which the certificate has none.

Nothing here that needs a GPU has been run yet: there was none where this was written.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from heatserve.certification.errors import HeatserveError
from heatserve.export.card import PLAN_NAME, Plan
from heatserve.export.runtime.session import infer_in_batches
from heatserve.export.runtime.tensorrt_operators import unsupported_operators

_WHERE = (
    "A plan is built, calibrated and served in one place: on a machine with an NVIDIA GPU and its driver, with "
    "`pip install 'heatserve[tensorrt]' tensorrt==VERSION`, where VERSION is that of the Triton that will serve it "
    "(NVIDIA's release notes name it for each container tritonserver:YY.MM-py3)"
)


class TensorRTError(HeatserveError):
    """TensorRT or its GPU is missing, is not the one of a plan, or refuses a graph."""


def build_plan(graph: bytes, *, batches: tuple[int, int, int], tf32: bool, timing_cache: Path | None) -> bytes:
    """A certified graph, compiled for the first GPU that is visible.

    Args:
        graph: serialised ONNX; only the batch of its one input is dynamic.
        batches: smallest batch, the one to choose kernels for, and largest.
        tf32: let convolutions and matrix products round their inputs to ten bits of mantissa.
        timing_cache: a file of what TensorRT measured of its kernels, made if absent. With it, a network that is built
            again gets the same kernels where they were measured before. None: everything is measured anew.

    Raises:
        TensorRTError: no TensorRT or GPU, an operator that TensorRT does not take (names it), or what TensorRT says.
    """
    unsupported = unsupported_operators(onnx.load_from_string(graph))
    if unsupported:
        raise TensorRTError(f"graph: expected operators that TensorRT supports, got {'; '.join(unsupported)}")
    require_tensorrt()
    with _explained("graph"):
        return bytes(plan_builder(graph, batches=batches, tf32=tf32, timing_cache=timing_cache)())


def plan_builder(
    graph: bytes, *, batches: tuple[int, int, int], tf32: bool, timing_cache: Path | None
) -> Callable[[], Any]:
    """What compiles the graph once it is called; see `build_plan`. Needs polygraphy, but no TensorRT yet."""
    from polygraphy.backend.trt import (
        CreateConfig,
        EngineBytesFromNetwork,
        NetworkFromOnnxBytes,
        PostprocessConfig,
        Profile,
    )

    image = onnx.load_from_string(graph).graph.input[0]
    shape = [dimension.dim_value for dimension in image.type.tensor_type.shape.dim[1:]]
    profile = Profile().add(image.name, *((batch, *shape) for batch in batches))
    cache = str(timing_cache) if timing_cache else None
    config = CreateConfig(profiles=[profile], tf32=tf32, load_timing_cache=cache)
    network = NetworkFromOnnxBytes(graph, strongly_typed=True)
    with_nans = PostprocessConfig(config, _keep_nans)
    build: Callable[[], Any] = EngineBytesFromNetwork(network, with_nans, save_timing_cache=cache)
    return build


def _keep_nans(_builder: Any, _network: Any, config: Any) -> None:
    """Without this flag TensorRT takes x − x for 0, and a network that answers NaN for one that does not."""
    import tensorrt

    config.set_flag(tensorrt.BuilderFlag.STRICT_NANS)


def plan_part(plan: bytes, *, batches: tuple[int, int, int], tf32: bool) -> Plan:
    """What the card says of a plan that was built just now, here."""
    import tensorrt

    sha256 = hashlib.sha256(plan).hexdigest()
    return Plan(sha256=sha256, tensorrt=tensorrt.__version__, gpu=gpu_name(), tf32=tf32, batches=batches)


def open_plan(plan: bytes, part: Plan) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    """A plan as the function that Triton serves: from any number of images, as the graph takes them, to the outputs.

    Args:
        plan: the bytes.
        part: what the card says of them.

    Raises:
        TensorRTError: no TensorRT or GPU, another one than built the plan, or what TensorRT says.
    """
    require_tensorrt()
    import tensorrt
    from polygraphy.backend.trt import TrtRunner, engine_from_bytes

    found = tensorrt.__version__, gpu_name()
    if found != (part.tensorrt, part.gpu):
        raise TensorRTError(
            f"{PLAN_NAME}: expected TensorRT {part.tensorrt} and a GPU {part.gpu}, which built it, found TensorRT "
            f"{found[0]} and {found[1]}; export and calibrate the model again here"
        )
    with _explained(PLAN_NAME):
        runner = TrtRunner(engine_from_bytes(plan))
        runner.activate()

    def infer(batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with _explained(PLAN_NAME):
            outputs = runner.infer({"image": batch})
        return {name: np.array(value) for name, value in outputs.items()}  # the next batch overwrites them

    return partial(infer_in_batches, infer, size=part.batches[-1])


def require_tensorrt() -> None:
    """Do nothing where plans can be built and run.

    Raises:
        TensorRTError: says what is missing, and how and where to get it.
    """
    missing = [package for package in ("polygraphy", "tensorrt") if find_spec(package) is None]
    if missing:
        raise TensorRTError(
            f"TensorRT: expected the packages polygraphy and tensorrt, found no {missing[-1]}. {_WHERE}"
        )
    gpu_name()


def gpu_name() -> str:
    """The name of the GPU that TensorRT takes, the first that is visible.

    Raises:
        TensorRTError: no driver, or no GPU.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise TensorRTError(f"TensorRT: expected NVIDIA's driver, found none ({error}). {_WHERE}") from None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, len(name), device)
    )
    if failed:
        raise TensorRTError(f"TensorRT: expected an NVIDIA GPU, found none (the driver's error {failed}). {_WHERE}")
    return name.value.decode()


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What polygraphy and TensorRT refuse, as an error of ours; what else they say goes to Python's log, not stdout."""
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    G_LOGGER.use_python_logging_system = True
    try:
        yield
    except PolygraphyException as error:
        raise TensorRTError(f"{what}: TensorRT refuses it: {error}") from None
