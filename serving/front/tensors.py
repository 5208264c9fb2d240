"""The tensors of a request and of an answer: JSON and bytes over HTTP, bytes over gRPC.

Shapes and sizes are checked as whole numbers of Python before anything is allocated, so that no product can overflow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatserve.serving.front.models import ModelRules, TensorRule
from heatserve.serving.front.refusals import invalid, shown

_DTYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
_LENGTH_BYTES = 4  # before each text of a tensor BYTES


def checked_shape(rule: TensorRule, rules: ModelRules, shape: object) -> list[int]:
    """The shape of an input as the model takes it.

    Raises:
        Refusal: names the input, the shape that was expected and the one that came.
    """
    expected = [*(["N"] if rules.is_batched else []), *("any" if size < 0 else size for size in rule.dims)]
    fits = (
        isinstance(shape, list)
        and len(shape) == len(expected)
        and all(type(size) is int and 0 < size < 2**31 for size in shape)
        and all(size < 0 or size == given for size, given in zip(rule.dims, shape[rules.is_batched :], strict=True))
    )
    if not fits:
        wanted = ", ".join(map(str, expected))
        raise invalid(f"{rule.name}: expected the shape [{wanted}], got {shown(shape)}")
    assert isinstance(shape, list)
    if rules.is_batched and shape[0] > rules.most_images:
        raise invalid(f"{rule.name}: expected at most {rules.most_images} images in a request, got {shape[0]}")
    return shape


def checked_size(rule: TensorRule, shape: Sequence[int], size: object) -> int:
    """The bytes of an input that is sent as bytes.

    Raises:
        Refusal: `binary_data_size` is not what the shape takes.
    """
    expected = math.prod(shape) * rule.item_bytes
    if type(size) is not int or size != expected:
        raise invalid(
            f"{rule.name}: expected binary_data_size {expected} for {rule.datatype} {list(shape)}, got {shown(size)}"
        )
    return expected


def json_bytes(rule: TensorRule, shape: Sequence[int], data: object) -> bytes:
    """The bytes of an input that is sent as JSON: a list of all values, or lists of lists as the shape has them.

    Raises:
        Refusal: another number of values, or others than the type has.
    """
    flat: Any = data
    count = math.prod(shape)
    if not isinstance(flat, list):
        raise invalid(f"{rule.name}: expected a list of {count} values as data, got {shown(data)}")
    for _ in shape[1:]:  # as many lists in lists as there are axes, at most
        if not flat or type(flat[0]) is not list:
            break
        if any(type(part) is not list for part in flat):
            raise invalid(f"{rule.name}: expected lists of one depth as data, got lists beside values")
        flat = list(chain.from_iterable(flat))
    if len(flat) != count:
        raise invalid(f"{rule.name}: expected {count} values for the shape {list(shape)}, got {len(flat)}")
    return _array(rule, flat).tobytes()


def _array(rule: TensorRule, values: list[Any]) -> NDArray[Any]:
    kinds = set(map(type, values))
    dtype: np.dtype[Any] = np.dtype(_DTYPES[rule.datatype])
    allowed: set[type] = {bool} if dtype.kind == "b" else {int} if dtype.kind in "iu" else {int, float}
    if not kinds <= allowed:
        what = "true or false" if dtype.kind == "b" else "whole numbers" if dtype.kind in "iu" else "numbers"
        other = next(value for value in values if type(value) not in allowed)
        raise invalid(f"{rule.name}: expected {what} for {rule.datatype}, got {shown(other)}")
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        least, most = min(values), max(values)
        if least < info.min or most > info.max:
            raise invalid(
                f"{rule.name}: expected values from {info.min} to {info.max} for {rule.datatype}, got "
                f"{shown(least if least < info.min else most)}"
            )
    with np.errstate(over="ignore"):  # what is too large becomes an infinity, which the model refuses by name
        return np.array(values, dtype=dtype)


def json_values(datatype: str, content: bytes) -> list[Any]:
    """The values of an output as JSON has them; texts as text, and what is not finite as null."""
    if datatype == "BYTES":
        return [text.decode(errors="replace") for text in _texts(content)]
    values = np.frombuffer(content, _DTYPES[datatype])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return [value if math.isfinite(value) else None for value in values.tolist()]
    found: list[Any] = values.tolist()
    return found


def _texts(content: bytes) -> list[bytes]:
    texts, start = [], 0
    while start < len(content):
        length = int.from_bytes(content[start : start + _LENGTH_BYTES], "little")
        start += _LENGTH_BYTES + length
        texts.append(content[start - length : start])
    return texts
