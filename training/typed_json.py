"""JSON text as the dataclass that it describes, and back: no more than checkpoints and a bare GPU machine need.

Such a machine trains and measures, and has no pydantic. What is written here has the bytes that pydantic writes: the
hash of a checkpoint, and whether the state of a training belongs to it, depend on them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class TypedJsonError(ValueError):
    """A value is not what was expected: its name, what was expected and what came."""


def parse_dataclass(text: str, kind: type[T]) -> T:
    """The dataclass that JSON text describes.

    Raises:
        TypedJsonError: no JSON, a field that is missing, unknown or of another type, or a value that the class refuses.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TypedJsonError(f"expected JSON: {error}") from None
    return checked_dataclass(values, kind, "")


def checked_dataclass(value: object, kind: type[T], name: str) -> T:
    """A value, or a dictionary of the fields, as `kind`; see `parse_dataclass`."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise _wrong(name, "an object", value)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    prefix = f"{name}." if name else ""
    for key in value:
        if key not in known:
            raise TypedJsonError(f"{prefix}{key}: expected no such field")
    for key, field in known.items():
        if key not in value and field.default is MISSING:
            raise TypedJsonError(f"{prefix}{key}: expected a value, found none")
    hints = get_type_hints(kind)
    try:
        return kind(**{key: checked(item, hints[key], f"{prefix}{key}") for key, item in value.items()})
    except TypedJsonError:
        raise
    except ValueError as error:
        raise TypedJsonError(f"{prefix}{error}") from None


def checked(value: object, kind: Any, name: str) -> Any:
    """A value as a type: lists as tuples, whole numbers as float where that is expected, and nothing else changed.

    Args:
        value: as JSON has it, or as the program has it already.
        kind: str, int, float, bool, None, a union, `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]`, `Mapping[str, X]`,
            or a dataclass.
        name: of the value, for the error.

    Raises:
        TypedJsonError: it is no such value. A number must be finite, and a text one that UTF-8 can hold.
    """
    if isinstance(kind, UnionType):
        return _checked_union(value, get_args(kind), name)
    origin = get_origin(kind)
    if origin is tuple:
        return _checked_tuple(value, get_args(kind), name)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(name, "an object", value)
        kinds = get_args(kind)
        return {checked(key, kinds[0], name): checked(item, kinds[1], f"{name}.{key}") for key, item in value.items()}
    if is_dataclass(kind):
        return checked_dataclass(value, kind, name)  # type: ignore[arg-type]
    if kind is float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise _wrong(name, "a finite number", value)
        return float(value)
    if type(value) is not kind:
        raise _wrong(name, kind.__name__, value)
    if kind is str:
        _check_text(str(value), name)
    return value


def _checked_union(value: object, kinds: tuple[Any, ...], name: str) -> Any:
    if type(value) in kinds:
        return checked(value, type(value), name) if value is not None else None
    for kind in kinds:
        if kind is not NoneType:
            try:
                return checked(value, kind, name)
            except TypedJsonError:
                if len(kinds) == 2 and NoneType in kinds:  # the only one there is: its message says more
                    raise
    raise _wrong(name, " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds), value)


def _checked_tuple(value: object, kinds: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(name, "a list", value)
    each = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
    if len(each) != len(value):
        raise TypedJsonError(f"{name}: expected {len(each)} values, got {len(value)}")
    pairs = enumerate(zip(value, each, strict=True))
    return tuple(checked(item, kind, f"{name}.{index}") for index, (item, kind) in pairs)


def _check_text(value: str, name: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(name, "text that UTF-8 can hold", value) from None


def _wrong(name: str, expected: str, value: object) -> TypedJsonError:
    return TypedJsonError(f"{name}{': ' if name else ''}expected {expected}, got {repr(value)[:80]}")


def dataclass_text(value: object, *, without: Collection[str] = ()) -> str:
    """A dataclass as JSON in one line, its fields in order, those of `without` left out."""
    hints = fields(value)  # type: ignore[arg-type]
    return _text({field.name: getattr(value, field.name) for field in hints if field.name not in without})


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(key)}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if is_dataclass(value):
        return dataclass_text(value)
    return _number_text(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _number_text(value: float) -> str:
    """The shortest digits that give the same number, as Python's; exponents as `1e-6`, from 10⁻⁶ down."""
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa
    if int(exponent) == -5:
        sign = "-" if value < 0 else ""
        return f"{sign}0.0000{mantissa.lstrip('-').replace('.', '')}"
    return f"{mantissa}e{int(exponent):+d}"
