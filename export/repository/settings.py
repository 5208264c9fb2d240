"""How a model is run, in its `config.pbtxt`: batching, queue, instances, threads, warm-up.

The exporter writes defaults once. From then on these settings belong to the operator, or to `heatserve tune`, and stay
when the next version of the model is published. What a model *is* (its tensors, its backend) follows from the card.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import triton_to_np_dtype

from heatserve.certification.cores import cpu_quota, usable_cores
from heatserve.certification.errors import HeatserveError
from heatserve.certification.files import write_atomically

THREADS = "intra_op_thread_count"
"""Parameter of the backend `onnxruntime`, NVIDIA's and ours: threads of one instance; 0: one for each core."""
VOTE_BATCH_SIZE, VOTE_THREADS = "vote_batch_size", "vote_threads"
"""Parameters of a model's `config.pbtxt`: the noisy images of one batch of votes, and the threads that answer it. One
process takes the votes for all tiers of a model."""
_VOTES = {VOTE_BATCH_SIZE: 32, VOTE_THREADS: 1}
_MOST_VOTES = 1024
WARM_UP_PATH = Path("warmup", "image")
"""In a model's folder: the bytes of the image that Triton has each instance classify before it serves."""
WARM_UP_SIDE = 256
"""Pixels of that image's sides where a model takes pictures of any size."""

_FIELDS = frozenset(
    {"name", "backend", "max_batch_size", "input", "output", "parameters"}  # of the model
    | {"version_policy", "instance_group", "optimization", "dynamic_batching", "model_warmup"}  # of the operator
    | {"response_cache", "metric_tags", "model_metrics"}
)
_RUN_PARAMETERS = frozenset({"EXECUTION_ENV_PATH"})  # a folder or archive, whose `bin/activate` Triton's stub runs
_WARM_UP = "one image"


def read_config(path: Path) -> pb.ModelConfig:
    """The configuration in a `config.pbtxt`.

    Raises:
        HeatserveError: no such file, or no configuration of Triton; names the file, and the line that is wrong.
    """
    try:
        return text_format.Parse(path.read_bytes(), pb.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise HeatserveError(f"{path}: expected a model configuration of Triton: {error}") from None


def write_config(path: Path, config: pb.ModelConfig) -> None:
    """Write a `config.pbtxt`, atomically."""
    write_atomically(path, text_format.MessageToString(config).encode())


def default_settings(max_batch_size: int) -> pb.ModelConfig:
    """What the exporter writes where nobody has chosen: one instance on all cores; requests that wait are batched.

    The queue has no limit: with one (a size, a timeout, or a timeout that a request may choose) Triton's dynamic
    batcher stops looking ahead and loses wake-ups, so that requests wait for half a second beside an idle instance
    (triton-inference-server/server issue 8870).
    """
    settings = pb.ModelConfig()
    settings.version_policy.latest.num_versions = 1
    settings.response_cache.enable = False
    settings.instance_group.add(count=1)
    for name, number in {THREADS: 0, **_VOTES}.items():
        settings.parameters[name].string_value = str(number)
    settings.dynamic_batching.preferred_batch_size.append(max_batch_size)
    return settings


def check_settings(config: pb.ModelConfig, model_dir: Path, *, largest_batch: int) -> None:
    """Do nothing where a configuration only says how a model is run, and has Triton read and run nothing but that.

    Args:
        config: what is there.
        model_dir: where it is.
        largest_batch: the most images of one request that the exporter allows; shared memory is sized for it.

    Raises:
        HeatserveError: it names other files to load or run than those of the model, or a field that no certified model
            has, or a number is none or too large. Says which.
    """
    _check_numbers(config, model_dir / "config.pbtxt", largest_batch)
    found = {field.name for field, _ in config.ListFields()} - _FIELDS
    found |= {f"the parameter {name}" for name in _RUN_PARAMETERS & set(config.parameters)}
    folder = (model_dir / WARM_UP_PATH.parent).resolve()
    for sample in config.model_warmup:
        for tensor in sample.inputs.values():
            if not (folder / tensor.input_data_file).resolve().is_relative_to(folder):
                found.add(f"the image {tensor.input_data_file} outside {WARM_UP_PATH.parent}/")
    if found:
        raise HeatserveError(
            f"{model_dir / 'config.pbtxt'}: expected settings of how the model is run, found "
            f"{', '.join(sorted(found))}; remove it"
        )


def _check_numbers(config: pb.ModelConfig, path: Path, largest_batch: int) -> None:
    parameters = {name: parameter.string_value for name, parameter in config.parameters.items()}
    limit, stated = config.max_batch_size, parameters.get("max_batch_size", str(config.max_batch_size))
    if not 1 <= limit <= largest_batch or stated != str(limit):
        raise HeatserveError(
            f"{path}: expected the same max_batch_size from 1 to {largest_batch} as a field and as a parameter, found "
            f"{limit} and {stated!r}"
        )
    threads = parameters.get(THREADS, "0")
    if not threads.isdecimal():
        raise HeatserveError(f"{path}: expected a number of threads as the parameter {THREADS}, found {threads!r}")
    for name in _VOTES:
        stated = parameters.get(name, "1")
        if not (stated.isascii() and stated.isdecimal() and len(stated) < 9 and 1 <= int(stated) <= _MOST_VOTES):
            raise HeatserveError(
                f"{path}: expected a whole number from 1 to {_MOST_VOTES} as the parameter {name}, found {stated!r}"
            )


def keep_to_quota(config: pb.ModelConfig) -> None:
    """Have an instance that would have one thread for each core of the machine keep to its container's quota."""
    threads = config.parameters[THREADS]
    if int(threads.string_value or 0) == 0 and cpu_quota() < math.inf:
        threads.string_value = str(usable_cores())


@dataclass(frozen=True)
class VoteSettings:
    """How the votes of a model's tiers are taken, as the operator set it."""

    batch_size: int
    threads: int


def vote_settings(config: pb.ModelConfig) -> VoteSettings:
    """Those in the configuration of a model, which was checked; what is not stated has its default."""
    parameters = config.parameters
    batch_size, threads = (
        int(parameters[name].string_value) if name in parameters else default for name, default in _VOTES.items()
    )
    return VoteSettings(batch_size, threads)


def with_settings(model: pb.ModelConfig, settings: pb.ModelConfig) -> pb.ModelConfig:
    """`settings` with each field that `model` has replaced by it; of the parameters, only those that it names."""
    config = pb.ModelConfig()
    config.CopyFrom(settings)
    for field, _ in model.ListFields():
        if field.name != "parameters":
            config.ClearField(field.name)
    config.MergeFrom(model)
    return config


def set_warm_up(config: pb.ModelConfig, model_dir: Path) -> None:
    """Have each instance classify one image before it serves: that in `WARM_UP_PATH` if it fits, else a black one.

    Samples of other names are the operator's: they stay, unless the model's input is no longer what they were made for.
    """
    image = config.input[0]
    for index in reversed(range(len(config.model_warmup))):
        sample = config.model_warmup[index]
        if sample.name == _WARM_UP or not _fits(sample, image):
            del config.model_warmup[index]
    tensor = config.model_warmup.add(name=_WARM_UP, batch_size=1).inputs[image.name]
    tensor.data_type = image.data_type
    tensor.dims.extend(_dims(image))
    path = model_dir / WARM_UP_PATH
    if path.is_file() and path.stat().st_size == _bytes_of(image):
        tensor.input_data_file = path.name
    else:
        tensor.zero_data = True


def _fits(sample: pb.ModelWarmup, image: pb.ModelInput) -> bool:
    tensor = sample.inputs.get(image.name)
    return (
        tensor is not None
        and tensor.data_type == image.data_type
        and all(ours in (-1, theirs) for ours, theirs in zip(image.dims, tensor.dims, strict=False))
    )


def _dims(image: pb.ModelInput) -> list[int]:
    """The dimensions of the image that warms up; where the model takes any size, a common one."""
    return [size if size > 0 else WARM_UP_SIDE for size in image.dims]


def _bytes_of(image: pb.ModelInput) -> int:
    dtype = triton_to_np_dtype(pb.DataType.Name(image.data_type).removeprefix("TYPE_"))
    return int(np.prod(_dims(image))) * np.dtype(dtype).itemsize
