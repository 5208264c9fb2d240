"""TensorRT plans: a certified graph compiled for one GPU, and the function that it is.

The precision is that of the graph: the network is strongly typed, so softmax, certificate and input checks stay in FP32
whatever the rest runs in. TF32 is for convolutions and matrix products, of which the certificate has none.

TensorRT 10 from 10.6 and TensorRT 11 are meant. Older ones have no flag that keeps NaN. Nothing here that needs a GPU
or TensorRT's libraries has been run: there were none where this was written. What was compared are the names: those
that this module and polygraphy 0.53 use are in the bindings of 10.6, 10.16, 11.0 and 11.4.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Iterator
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
from heatserve.export.runtime.session import Runner, infer_in_batches

_WHERE = (
    "A plan is built, calibrated and served in one place: on a machine with an NVIDIA GPU and its driver, with "
    "`pip install 'heatserve[tensorrt]' tensorrt==VERSION`, where VERSION, 10.6 or later, is that of the Triton that "
    "will serve it (NVIDIA's release notes name it for each container tritonserver:YY.MM-py3)"
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
        TensorRTError: no TensorRT, one that is too old, or no GPU; or TensorRT refuses the graph, in its own words.
    """
    require_tensorrt()
    from polygraphy.backend.trt import EngineBytesFromNetwork, PostprocessConfig

    cache = str(timing_cache) if timing_cache else None
    config = PostprocessConfig(builder_config(graph, batches=batches, tf32=tf32, timing_cache=cache), _keep_nans)
    with tensorrt_errors_explained("graph"):
        return bytes(EngineBytesFromNetwork(parsed_network(graph), config, save_timing_cache=cache)())


def parsed_network(graph: bytes) -> Any:
    """The loader of polygraphy that has TensorRT parse the graph once it is called; it needs no TensorRT before."""
    from polygraphy.backend.trt import NetworkFromOnnxBytes

    return NetworkFromOnnxBytes(graph, strongly_typed=True)  # TensorRT 11 knows no other networks and ignores the flag


def builder_config(graph: bytes, *, batches: tuple[int, int, int], tf32: bool, timing_cache: str | None) -> Any:
    """The loader of polygraphy that configures TensorRT's builder once it is called; see `build_plan`."""
    from polygraphy.backend.trt import CreateConfig, Profile

    image = onnx.load_from_string(graph).graph.input[0]
    shape = [dimension.dim_value for dimension in image.type.tensor_type.shape.dim[1:]]
    profile = Profile().add(image.name, *((batch, *shape) for batch in batches))
    return CreateConfig(profiles=[profile], tf32=tf32, load_timing_cache=timing_cache)


def _keep_nans(_builder: Any, _network: Any, config: Any) -> None:
    import tensorrt

    config.set_flag(nan_flag(tensorrt))


def nan_flag(tensorrt: Any) -> Any:
    """STRICT_NANS, without which TensorRT takes x − x for 0, and a network that answers NaN for one that does not.

    Args:
        tensorrt: the module.

    Raises:
        TensorRTError: it has no such flag.
    """
    flag = getattr(tensorrt.BuilderFlag, "STRICT_NANS", None)
    if flag is None:
        raise TensorRTError(
            f"TensorRT: expected 10.6 or later, whose builder has the flag STRICT_NANS, found {tensorrt.__version__}; "
            f"without it an invalid answer of the network may pass for a valid one. {_WHERE}"
        )
    return flag


def plan_part(plan: bytes, *, batches: tuple[int, int, int], tf32: bool) -> Plan:
    """What the card says of a plan that was built just now, here."""
    import tensorrt

    sha256 = hashlib.sha256(plan).hexdigest()
    return Plan(sha256=sha256, tensorrt=tensorrt.__version__, gpu=gpu_name(), tf32=tf32, batches=batches)


def open_plan(plan: bytes, part: Plan) -> Runner:
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
    with tensorrt_errors_explained(PLAN_NAME):
        runner = TrtRunner(engine_from_bytes(plan))
        runner.activate()

    def infer(batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with tensorrt_errors_explained(PLAN_NAME):
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
    import tensorrt

    nan_flag(tensorrt)


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
def tensorrt_errors_explained(what: str) -> Iterator[None]:
    """What polygraphy and TensorRT refuse in here, as an error of ours.

    TensorRT says in its log what is wrong (a parser's error names the node and its operator), and polygraphy only that
    something is; so the errors logged in here are part of the message. All else goes to Python's log, not to stdout.

    Raises:
        TensorRTError: see above.
    """
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    G_LOGGER.use_python_logging_system = True
    reasons = _Errors(logging.ERROR)
    G_LOGGER.python_logger.addHandler(reasons)
    try:
        yield
    except PolygraphyException as error:
        found = "; ".join(dict.fromkeys([*reasons.messages, str(error)]))
        raise TensorRTError(f"{what}: TensorRT refuses it: {found}") from None
    finally:
        G_LOGGER.python_logger.removeHandler(reasons)


class _Errors(logging.Handler):
    """Keeps the errors of a log, without the marks that polygraphy sets before them."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage().removeprefix("[E] ").removeprefix("[!] ").strip())
