"""What a model takes, as the front checks it before anything is allocated: from Triton's own configuration of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.grpc import service_pb2

from heatserve.export.tiers import parse_limits
from heatserve.serving.batching import PICTURES_BYTES, request_bytes

JSON_HEADER_BYTES = 2**16
"""The most bytes of JSON before the tensors of a binary request."""
JSON_BYTES = 2**24
"""The most bytes of a request that is JSON alone: parsed, it takes up to 20 times as much memory, for a moment."""

_TEXT_OF_VALUE = 26  # bytes: the longest text of a float64 and a comma
_ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
}


@dataclass(frozen=True, slots=True)
class TensorRule:
    """One input: its name, type, the bytes of one value, and the dims of one image, −1 where any size will do."""

    name: str
    datatype: str
    item_bytes: int
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelRules:
    """What a request to a model is checked against."""

    name: str
    inputs: Mapping[str, TensorRule]
    outputs: frozenset[str]
    is_batched: bool
    """Whether the first axis of each input counts images."""
    most_images: int
    is_stream: bool
    """Whether it answers one request several times."""
    binary_bytes: int
    """The most bytes of a body with binary tensors."""
    json_bytes: int
    """The most bytes of a body that is JSON alone."""
    most_waiting: int | None = None
    """The most images of one client that wait for its votes, unless he asked for them at once: half of its queue.

    None: it takes no votes.
    """

    def images_in(self, message: service_pb2.ModelInferRequest) -> int:
        """How many images a request has that was checked."""
        return int(message.inputs[0].shape[0]) if self.is_batched else 1


def rules_of(config: pb.ModelConfig) -> ModelRules:
    """The rules of a model as Triton is configured for it; an input of another type than numbers is left out."""
    parameters = {name: parameter.string_value for name, parameter in config.parameters.items()}
    most_images = int(parameters.get("max_batch_size") or config.max_batch_size) or 1
    inputs = {tensor.name: _rule(tensor) for tensor in config.input if _datatype(tensor.data_type) in _ITEM_BYTES}
    return ModelRules(
        name=config.name,
        inputs=inputs,
        outputs=frozenset(tensor.name for tensor in config.output),
        is_batched=config.max_batch_size > 0,
        most_images=most_images,
        is_stream=config.model_transaction_policy.decoupled,
        binary_bytes=JSON_HEADER_BYTES + _pixel_bytes(inputs.values(), most_images),
        json_bytes=min(JSON_BYTES, JSON_HEADER_BYTES + _values(inputs.values(), most_images) * _TEXT_OF_VALUE),
        most_waiting=max(1, parse_limits(parameters).queue // 2) if "tier" in parameters else None,
    )


def _rule(tensor: Any) -> TensorRule:
    datatype = _datatype(tensor.data_type)
    return TensorRule(tensor.name, datatype, _ITEM_BYTES[datatype], tuple(tensor.dims))


def _datatype(data_type: int) -> str:
    return str(pb.DataType.Name(data_type)).removeprefix("TYPE_")


def _pixel_bytes(inputs: Iterable[TensorRule], images: int) -> int:
    return sum(request_bytes(rule.dims, item_bytes=rule.item_bytes, limit=images) for rule in inputs)


def _values(inputs: Iterable[TensorRule], images: int) -> int:
    return sum(PICTURES_BYTES if -1 in rule.dims else images * math.prod(rule.dims) for rule in inputs)
